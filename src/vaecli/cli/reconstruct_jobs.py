"""What `vaecli reconstruct` is asked to do: its inputs, and the files they go to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vaecli.cli import options, outputs
from vaecli.errors import UsageError
from vaecli.system import files, shell

STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One input, and the files of its reconstruction and heat map (None: none of its own)."""

    source: str
    output: Path | None
    heatmap: Path | None = None


def plan(
    common: options.Common,
    inputs: list[str],
    output: str | None,
    grid: Path | None,
    to_stdout: bool,
    heatmap: bool,
) -> list[Job]:
    """Inputs and their outputs; every contradiction is found before any work."""
    if grid is not None:
        outputs.require_new_file("--grid", grid, ".png", force=common.force)
    inputs = list(shell.expanded(inputs))
    found = list(_expand(common, inputs))
    if to_stdout and len(found) > 1:
        raise UsageError("--output -: only one image can go to stdout", "Name a folder with -o.")
    if to_stdout and heatmap:
        raise UsageError(
            "--heatmap: only one picture can go to stdout", "Name a file or a folder with -o."
        )
    if to_stdout or (grid is not None and output is None):
        return [Job(source, None) for source, _ in found]
    if output is not None and outputs.kind(output, (".png",)) == "file":
        if len(inputs) > 1 or Path(inputs[0]).is_dir():
            raise UsageError(
                f"--output {output}: it is not a folder", "Name a folder for several images."
            )
        written = [Path(output)]
        if heatmap:
            written.append(Path(output).with_suffix(".heatmap.png"))
        if grid is not None and grid.resolve() in [path.resolve() for path in written]:
            raise UsageError("--output and --grid name the same file", "Name two files.")
        files.require_new(written, force=common.force)
        return [Job(found[0][0], *written)]
    folder = Path(output or ".")
    sources = [source for source, _ in found]
    columns = []
    for kind in ("recon", "heatmap")[: 1 + heatmap]:
        targets = [folder / path.with_name(f"{path.stem}.{kind}.png") for _, path in found]
        outputs.require_distinct(targets, sources)
        if output is not None:
            files.require_new(targets, force=common.force)
        elif not common.force:
            targets = [outputs.free_name(target) for target in targets]
        columns.append(targets)
    return [Job(*row) for row in zip(sources, *columns, strict=True)]


def _expand(common: options.Common, inputs: list[str]) -> Iterator[tuple[str, Path]]:
    """Every image named or found in a folder, with its path relative to that folder."""
    from vaecli.data.own.listing import find_images

    if inputs.count(STDIN) > 1:
        raise UsageError("-: stdin can be read only once", "Write - once.")
    for name in inputs:
        path = Path(name)
        if name == STDIN:
            yield name, Path("stdin")
        elif path.is_dir():
            images, left_out = find_images(path)
            for reason, count in left_out.items():
                common.terminal.warning(f"{name}: left out: {count:,} {reason}")
            for found in images:
                yield str(found), found.relative_to(path)
        else:
            yield name, Path(path.name)


def grid_of_test_images(
    common: options.Common, output: str | None, grid: Path | None
) -> Path | None:
    """Where the picture without any input goes; None for stdout."""
    if output is not None and grid is not None:
        raise UsageError("--output and --grid name the same picture here", "Give one of them.")
    if output == outputs.STDOUT:
        return None
    if output is not None and outputs.kind(output, (".png",)) == "folder":
        raise UsageError(f"--output {output}: it is a folder", "Name a .png file.")
    if output is None and grid is None:
        default = Path("reconstructions.png")
        return default if common.force else outputs.free_name(default)
    given, named = ("--grid", grid) if grid is not None else ("--output", Path(output or ""))
    outputs.require_new_file(given, named, ".png", force=common.force)
    return named
