"""Data sets of the Hub, from a loopback server: files, configurations, cache, no code."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from loopback import served
from test_parquet import hub_file, needs_pyarrow
from vaecli.data.own import hub_data
from vaecli.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/part-*
  - split: test
    path: [other/held.parquet]
- config_name: small
  data_files:
  - split: train
    path: small/all.parquet
---
"""


class Hub(BaseHTTPRequestHandler):
    """The little of the Hub that reading data sets needs: a folder for each set and branch."""

    sets: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path.startswith("/api/datasets/"):
            owner, name, *rest = path.removeprefix("/api/datasets/").split("/")
            folder = self.folder(f"{owner}/{name}", rest[1] if len(rest) > 1 else "main")
            if folder.is_dir():
                found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                names = [{"rfilename": file.relative_to(folder).as_posix()} for file in found]
                listing = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": names}
                self.reply(json.dumps(listing).encode(), {"Content-Type": "application/json"})
                return
        elif path.startswith("/datasets/"):
            name, _, place = path.removeprefix("/datasets/").partition("/resolve/")
            revision, _, file_name = place.partition("/")
            file = self.folder(name, revision) / file_name
            if file.is_file():
                data = file.read_bytes()
                tag = hashlib.sha1(data).hexdigest()
                self.reply(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
                return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def folder(self, name: str, revision: str) -> Path:
        branch = "" if revision in ("main", COMMIT) else revision.replace("%2F", "-")
        return self.sets / f"{name}{branch}"

    def reply(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Hub.sets, Hub.asked = tmp_path / "sets", []
    with served(Hub) as address:
        yield address


SCRIPT = """
import sys
from vaecli.cli import app as cli
for command in {commands!r}:
    print(cli.run(list(command)), flush=True)
    print("---", file=sys.stderr, flush=True)
"""


def run(server: str, folder: Path, *commands: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Exit codes and what was said; in one process, since HF_ENDPOINT is read at its import."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": server,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "VAECLI_DATA_DIR": str(folder / "cache"),
    }
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(commands=commands)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    codes = [int(line) for line in done.stdout.splitlines() if line.isdecimal()]
    return codes, [*done.stderr.split("---\n"), done.stdout]


SHORT = ("-e", "1", "--hidden", "8", "--latent-dim", "2")


@needs_pyarrow
def test_a_set_of_the_hub_trains_and_is_found_again_offline(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "sets/someone/pictures"
    for number, name in enumerate(("data/part-0", "data/part-1", "other/held", "small/all")):
        hub_file(folder / f"{name}.parquet", range(20 * number, 20 * number + 20))
    (folder / "README.md").write_text(CARD)
    (folder / "pictures.py").write_text("raise SystemExit(99)")
    data = "hf://datasets/someone/pictures"
    codes, said = run(
        server,
        tmp_path,
        ("train", "--data", data, "--no-download", "-o", "run", *SHORT),
        ("train", "--data", data, "-o", "run", *SHORT),
        ("eval", "-m", "run", "--no-download", "--json"),
        ("train", "--data", f"{data}/small", "-o", "small", "-q", *SHORT),
        ("train", "--data", f"{data}/none", "-o", "none", *SHORT),
        ("train", "--data", data, "-o", "run", "--no-download", *SHORT),
    )
    assert codes == [5, 0, 0, 0, 3, 0], said
    assert "not in the local cache" in said[0]
    assert "pictures: 40 training and 20 test images of 1x9x9" in said[1]
    assert "cat, dog, eel" in said[1]
    assert "%" not in said[1]  # no bar
    assert '"n_images": 20' in said[-1]
    assert "it has no none. Name one behind the address: default, small" in said[4]
    assert "finished" in said[5]
    nobody = "http://127.0.0.1:9"
    codes, said = run(
        nobody,
        tmp_path,
        ("eval", "-m", "run", "--json"),
        ("train", "--data", "hf://datasets/someone/new", "--dry-run"),
    )
    assert codes == [0, 5], said
    assert "the Hub cannot be reached" in said[1]
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config["data"]["name"] == "pictures-small"
    source = json.loads((tmp_path / "run/state/source.json").read_text())
    assert source["location"] == data
    assert not any(path.endswith(".py") for path in Hub.asked)


@needs_pyarrow
def test_the_copies_that_the_hub_makes_are_read_where_a_set_has_no_parquet(
    server: str, tmp_path: Path
) -> None:
    sets = tmp_path / "sets/someone"
    (sets / "script").mkdir(parents=True)
    (sets / "script/script.py").write_text("raise SystemExit(99)")
    for number, split in enumerate(("train", "test")):
        name = f"scriptrefs-convert-parquet/default/{split}/0000.parquet"
        hub_file(sets / name, range(10 * number, 10 * number + 10))
    (sets / "none").mkdir()
    (sets / "none/a.csv").write_text("1,2")
    codes, said = run(
        server,
        tmp_path,
        ("train", "--data", "hf://datasets/someone/script", "--dry-run"),
        ("train", "--data", "hf://datasets/someone/none", "--dry-run"),
        ("train", "--data", "hf://datasets/someone/else", "--dry-run"),
        ("train", "--data", "hf://datasets/someone", "--dry-run"),
    )
    assert codes == [0, 3, 3, 3], said
    assert "10 training and 10 test images" in said[-1]
    assert "it has no Parquet files" in said[1]
    assert "no such repository" in said[2]
    assert "hf://datasets/OWNER/NAME" in said[3]


@pytest.mark.parametrize(
    ("names", "configurations", "asked", "expected"),
    [
        (["a.parquet", "data/b.parquet"], {}, None, {"a.parquet": None, "data/b.parquet": None}),
        (["x/a.parquet", "y/b.parquet"], {}, "y", {"y/b.parquet": None}),
        (["x/a.parquet", "y/b.parquet"], {}, None, "several configurations"),
        (["default/a.parquet", "y/b.parquet"], {}, None, {"default/a.parquet": None}),
        (
            ["t/1.parquet", "t/2.parquet"],
            {"c": [("test", ["t/*"])]},
            None,
            {"t/1.parquet": "test", "t/2.parquet": "test"},
        ),
        (["t/1.parquet"], {"c": [("test", ["u/*"])]}, None, "names no Parquet files"),
        (["t/1.csv"], {}, None, "no Parquet files"),
    ],
)
def test_which_files_are_read(
    names: list[str],
    configurations: dict[str, list[tuple[str, list[str]]]],
    asked: str | None,
    expected: dict[str, str | None] | str,
) -> None:
    if isinstance(expected, dict):
        assert hub_data._chosen(names, configurations, asked, "x") == expected
        return
    with pytest.raises(DataError, match=expected):
        hub_data._chosen(names, configurations, asked, "x")


@pytest.mark.parametrize(
    "card",
    [
        None,
        [],
        {"configs": 3},
        {"configs": [3, {"config_name": []}]},
        {"configs": [{"config_name": "a", "data_files": [{"split": 3}, "x"]}]},
    ],
)
def test_a_strange_card_says_nothing(card: object) -> None:
    assert hub_data._configurations(card) == {}
