"""`vaecli export`: the model as ONNX, pt2, HTML or safetensors files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vaecli.cli import fitted_prior, options, outputs
from vaecli.cli.options import option
from vaecli.errors import DataError, EnvironmentFailure, UsageError
from vaecli.system import extras, files

if TYPE_CHECKING:
    from vaecli.data.dataset import Images
    from vaecli.export.drawn import Drawn
    from vaecli.export.formats import Written
    from vaecli.runs.load import LoadedModel

Format = Literal["onnx", "pt2", "html", "safetensors", "hub"]
HUB = "hf://"
IN_PARTS = ("onnx", "pt2")
"""Formats of one file per part, in a folder, checked against torch."""
TOLERANCE = 1e-4


def export(
    *,
    model: options.Model = None,
    format: Annotated[  # the option's name, fixed by the contract
        Format,
        option(
            "onnx, pt2: encoder, decoder and a learned prior in a folder, checked against torch;"
            " html: a page that decodes in the browser; safetensors: one file for vaecli; hub:"
            " upload the run to the Hugging Face Hub.",
            "--format",
            metavar="NAME",
        ),
    ] = "onnx",
    part: Annotated[
        Literal["all", "encoder", "decoder", "prior"] | None,
        option(
            "Which part, for onnx and pt2: all, encoder, decoder, or prior, a learned one.",
            default="all",
            metavar="NAME",
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(
            "The folder (onnx, pt2) or file to write, - for one file on stdout, or hf://OWNER/NAME.",
            "--output",
            "-o",
            default="RUN-onnx, RUN-pt2, RUN.html or RUN.safetensors here",
            metavar="OUT",
            parser=options.home_text,
        ),
    ] = None,
    verify: Annotated[
        bool | None,
        option(
            "Compare with torch at batch sizes 1 and 3, for onnx and pt2.",
            "--verify/--no-verify",
            default="verify",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        option("Largest difference that passes.", default=TOLERANCE, metavar="X"),
    ] = None,
    half: Annotated[bool, option("Store fp16 numbers, for safetensors.", "--half")] = False,
    private: Annotated[bool, option("Make a private repository, for hub.", "--private")] = False,
    seed: options.RunSeed = None,
    common: options.Common,
) -> None:
    """Write a model for other programs; prints the paths written.

    [bold]Examples[/bold]
      vaecli export
      vaecli export --format html -o digits.html
      vaecli export -m runs/001-mnist-mlp --format onnx --part decoder -o digits/
      vaecli export --format safetensors --half
      vaecli export --format hub -o hf://OWNER/NAME --private
    """
    _check(format, part, verify, tolerance, half)
    _check_hub(common, format, output, private)
    options.require_at_least("--seed", seed, 0)
    one_file = format not in IN_PARTS or part not in (None, "all")
    if output == outputs.STDOUT:
        if not one_file:
            raise UsageError(
                "--output -: several files cannot all go to stdout", "Choose one with --part."
            )
        common.require_stdout()
    if format == "onnx":
        needed = ("onnx", "onnxscript") if verify is False else None
        extras.require("onnx", "--format onnx", needed)

    from vaecli.cli.inputs import load_model

    if format == "hub":
        assert output is not None
        _push(common, load_model(common, model), output, private)
        return
    target = None if output is None else Path(output)
    _require_new(common, format, part, target)
    loaded = load_model(common, model)
    if target is None:
        target = _default_output(common, loaded.name, format)

    from vaecli.export import formats

    if format == "html":
        drawn, images = _drawn(common, loaded, seed), _test_images(common, loaded)
        written = [formats.page(loaded.model, target, loaded, images=images, drawn=drawn)]
    elif format == "safetensors":
        written = [formats.safetensors(loaded.model, target, half=half)]
    else:
        limit = None if verify is False else (TOLERANCE if tolerance is None else tolerance)
        written = formats.in_parts(loaded.model, format, part, target, limit)
    _save(common, format, target, written)


def _check(
    format: Format, part: str | None, verify: bool | None, tolerance: float | None, half: bool
) -> None:
    if half and format != "safetensors":
        why = "it stores fp16 as it is" if format == "html" else "it computes in float32"
        raise UsageError(f"--half does not go with --format {format}: {why}", "Leave it out.")
    if format not in IN_PARTS:
        given = {"--part": part, "--verify": verify, "--tolerance": tolerance}
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{name} does not go with --format {format}: it is for onnx and pt2",
                    "Leave it out.",
                )
    if tolerance is not None and verify is False:
        raise UsageError("--tolerance and --no-verify contradict each other", "Give one of them.")
    if tolerance is not None and not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UsageError(f"--tolerance must be a finite number of at least 0, not {tolerance:g}")


def _check_hub(common: options.Common, format: Format, output: str | None, private: bool) -> None:
    if format != "hub":
        if private or (output or "").startswith(HUB):
            what = "--private" if private else f"--output {output}"
            raise UsageError(f"{what} does not go with --format {format}", "Add --format hub.")
        return
    extras.require("hub", "--format hub", ("huggingface_hub",))
    if not (output or "").startswith(HUB):
        raise UsageError("--format hub needs an address", "Write -o hf://OWNER/NAME.")
    if common.no_download:
        raise UsageError("--format hub and --no-download contradict each other", "Leave one out.")


def _push(common: options.Common, loaded: LoadedModel, address: str, private: bool) -> None:
    from vaecli.runs import hub

    if loaded.run is None:
        raise UsageError(f"{loaded.path}: it is not a run directory", "Name a run with -m.")
    commit = hub.push(loaded.run, address, private=private, replace=common.force)
    if common.terminal.json:
        common.terminal.object({"format": "hub", "output": address, "commit": commit})
    else:
        common.terminal.data(address)
    common.terminal.note(f"uploaded: {commit}")
    common.terminal.note(f"vaecli sample -m {address}")


def _names(format: Format, part: str | None) -> list[str]:
    """The files of a format in parts."""
    parts = ("encoder", "decoder", "prior") if part in (None, "all") else (part,)
    return [f"{name}.{format}" for name in parts]


def _require_new(
    common: options.Common, format: Format, part: str | None, target: Path | None
) -> None:
    """Refuse what is there already, before any work."""
    if target is None or str(target) == outputs.STDOUT:
        return
    if format not in IN_PARTS:
        files.require_new([target], force=common.force)
    elif target.suffix in (".html", ".safetensors"):
        raise UsageError(
            f"output {target}: --format {format} makes a folder",
            f"Add --format {target.suffix[1:]}, or name a folder.",
        )
    elif target.exists() and not target.is_dir():
        raise UsageError(f"output {target}: it is a file", f"--format {format} makes a folder.")
    else:
        files.require_new([target / n for n in _names(format, part)], force=common.force)


def _default_output(common: options.Common, name: str, format: Format) -> Path:
    folder = format in IN_PARTS
    path = Path(f"{name}-{format}" if folder else f"{name}.{format}")
    return path if common.force else outputs.free_name(path, folder=folder)


def _test_images(common: options.Common, loaded: LoadedModel) -> Images | None:
    """The run's test images; None, with a note, when they are not on this machine."""
    from vaecli.cli.inputs import load_images

    if loaded.run is None:
        common.terminal.note("no map of test images: a loose weights file does not name its data")
        return None
    try:
        here = dataclasses.replace(common, no_download=True)
        return load_images(here, loaded, None, None, None)[0]
    except (DataError, EnvironmentFailure, UsageError) as error:
        common.terminal.note(f"no map of test images: {error.message}")
        return None


def _drawn(common: options.Common, loaded: LoadedModel, seed: int | None) -> Drawn | None:
    """Draws of a prior that `sample` fitted and kept, for the page; says what it draws from."""
    from vaecli.cli.inputs import torch_device
    from vaecli.export import drawn

    where = torch_device(common, loaded)
    with common.reading() as reading:
        found = drawn.from_kept(loaded, where, seed=seed, progress=reading.progress)
    if found is not None:
        common.terminal.note(
            f"Random in the page: {len(found.latents):,} draws of the prior {found.prior} kept in"
            f" {loaded.path}"
        )
    elif loaded.run is not None and (better := fitted_prior.better(loaded.config)):
        common.terminal.note(f"Random in the page: {better}, and keeps its prior for the next page")
    return found


def _save(common: options.Common, format: Format, target: Path, written: list[Written]) -> None:
    """Write the files, print their paths, and say how good they are and how to use them."""
    terminal = common.terminal
    if str(target) == outputs.STDOUT:
        terminal.bytes(written[0].data)
        return
    for file in written:
        files.save(file.path, file.data)
    rows = [
        {
            "output": str(file.path),
            "bytes": len(file.data),
            "sha256": files.sha256(file.data),
            **file.about,
        }
        for file in written
    ]
    if terminal.json:
        terminal.object(
            {"output": str(target), "format": format, "files": rows}
            if format in IN_PARTS
            else {"format": format, **rows[0]}
        )
    else:
        for file in written:
            terminal.data(str(file.path))
    for row in rows:
        size = f"{row['output']}: {row['bytes']:,} bytes"
        if "difference" in row:
            what = "from torch" if format in IN_PARTS else "of a decoded pixel in [0, 1] by fp16"
            size += f", difference {what} at most {row['difference']:.1e}"
        terminal.note(size)
    for row in rows:
        for line in str(row.get("usage", "")).splitlines():
            terminal.note(line)
