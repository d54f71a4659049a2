"""The pages of the documentation, taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
NOT_RUN = "not run: "
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<kind>\S*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    """The text of each block between fences, of these kinds, that no mark leaves out."""
    for match in _FENCE.finditer(page.read_text()):
        marked = (match["mark"] or "").startswith(NOT_RUN)
        if match["kind"] in kinds and not marked:
            yield match["text"]


def other_blocks(page: Path, *kinds: str) -> Iterator[str]:
    """The text of each block between fences of any other kind."""
    for match in _FENCE.finditer(page.read_text()):
        if match["kind"] not in kinds:
            yield match["text"]


def prose(page: Path) -> str:
    """What stands outside of blocks between fences."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, by the rule of GitHub and of MyST."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = sum(
            name == other or re.fullmatch(f"{name}-\\d+", other) is not None for other in found
        )
        found.append(f"{name}-{again}" if again else name)
    return set(found)
