"""Where `vaecli sample` writes its images: a grid, an array, an animation or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaecli.cli import options, outputs
from vaecli.errors import UsageError
from vaecli.system import files

if TYPE_CHECKING:
    from vaecli.cli.walks import Images2D
    from vaecli.data.pixels import Bytes

DEFAULT_NAME = "samples.png"
SUFFIXES = (".png", ".npy", ".gif")
FRAME_MILLISECONDS, HOLD_MILLISECONDS = 80, 600


def check(output: str | None, *, force: bool, gif: bool) -> None:
    """Refuse what cannot be written before any work is done."""
    if output is None or outputs.kind(output, SUFFIXES) != "file":
        return
    path = Path(output)
    if path.suffix.lower() == ".gif" and not gif:
        raise UsageError(
            f"--output {output}: only --interpolate can be animated", "Name a .png file."
        )
    files.require_new([path], force=force)


def is_grid(output: str | None) -> bool:
    """Whether all images go into one picture."""
    kind = "file" if output is None else outputs.kind(output, SUFFIXES)
    return kind != "folder" and not str(output).lower().endswith(".npy")


def write(
    common: options.Common, result: Images2D, output: str | None, classes: tuple[str, ...]
) -> None:
    """Write images where --output says, and tell where.

    Args:
        common: options.
        result: the images.
        output: the option.
        classes: names of the classes of the model.
    """
    names = None if result.labels is None else [classes[place] for place in result.labels.tolist()]
    kind = "file" if output is None else outputs.kind(output, SUFFIXES)
    if kind == "folder":
        _write_folder(common, result.pixels, Path(str(output)), names)
        return
    data = _encoded(result, "" if output is None else Path(output).suffix.lower())
    if kind == "stdout":
        common.terminal.bytes(data)
        return
    path = Path(output or DEFAULT_NAME)
    if output is None and not common.force:
        path = outputs.free_name(path)
    files.save(path, data)
    _tell(common, [path], len(result.pixels), names)


def _encoded(result: Images2D, suffix: str) -> bytes:
    """The file that a suffix asks for; a grid as PNG without one."""
    from vaecli.pictures import grid

    if suffix == ".npy":
        return grid.encode_npy(result.pixels)
    if suffix == ".gif":
        return _animation(result.pixels)
    return grid.encode_png(result.picture)


def _animation(pixels: Bytes) -> bytes:
    """There and back, staying a while at either end."""
    from vaecli.pictures import animation, grid

    frames = [grid.make_grid(image[None], columns=1, scale=6, gap=0) for image in pixels]
    return animation.encode_gif(
        frames,
        milliseconds=FRAME_MILLISECONDS,
        hold=HOLD_MILLISECONDS,
        there_and_back=True,
    )


def _write_folder(
    common: options.Common, images: Bytes, folder: Path, names: list[str] | None
) -> None:
    from vaecli.pictures.grid import encode_png

    digits = max(3, len(str(len(images) - 1)))
    paths = [folder / f"sample-{index:0{digits}d}.png" for index in range(len(images))]
    files.require_new(paths, force=common.force)
    files.save_all((path, encode_png(image)) for path, image in zip(paths, images, strict=True))
    _tell(common, paths, len(images), names)


def _tell(common: options.Common, paths: list[Path], count: int, names: list[str] | None) -> None:
    if common.terminal.json:
        told = {"outputs": [str(path) for path in paths], "n_images": count}
        common.terminal.object(told if names is None else {**told, "labels": names})
    else:
        for path in paths:
            common.terminal.data(str(path))
