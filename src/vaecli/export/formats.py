"""Each format of an export as files in memory, checked and ready to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vaecli.data.dataset import Images
from vaecli.errors import UsageError
from vaecli.export import half as rounding
from vaecli.export import html, onnx, parity, parts, pt2
from vaecli.export.drawn import Drawn
from vaecli.model.vae import VAE
from vaecli.runs import weights
from vaecli.runs.directory import Run
from vaecli.runs.load import LoadedModel

Format = Literal["onnx", "pt2", "html", "safetensors"]
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Written:
    """One file of an export; `about` is what --json tells of it besides."""

    path: Path
    data: bytes
    about: dict[str, Any]


def paths(output: Path, format: Format, part: str | None) -> list[Path]:
    """The files that an export may write: one of each part in a folder, or `output` itself."""
    if format not in ("onnx", "pt2"):
        return [output]
    names = ("encoder", "decoder", "prior") if part in (None, "all") else (part,)
    return [output / f"{name}.{format}" for name in names]


def in_parts(
    model: VAE,
    format: Literal["onnx", "pt2"],
    part: str | None,
    folder: Path,
    limit: float | None,
) -> list[Written]:
    """Encoder, decoder and a learned prior, each compared with torch before anything is written.

    Args:
        model: to export.
        format: of the files.
        part: `encoder`, `decoder` or `prior`; None or `all` for all there are.
        folder: of the files.
        limit: largest difference from torch that passes; None does not compare.

    Raises:
        VaecliError: one differs by more.
        UsageError: the prior is asked for, and none was learned.
    """
    if part == "prior" and model.prior is None:
        raise UsageError("--part prior: the prior of this model is N(0, I)", "Leave it out.")
    kind = onnx if format == "onnx" else pt2
    written = []
    for each in parts.split(model):
        path = folder / f"{each.name}.{format}"
        if path not in paths(folder, format, part):
            continue
        data = kind.encode(each)
        about: dict[str, Any] = {"part": each.name}
        if limit is not None:
            about["difference"] = parity.difference(each, kind.load(data))
            parity.require_parity(each, about["difference"], limit)
        about["usage"] = kind.usage(each, str(path))
        written.append(Written(path, data, about))
    return written


def safetensors(model: VAE, path: Path, *, half: bool) -> Written:
    """One file with the model's configuration in its header; `half` stores fp16."""
    about: dict[str, Any] = {}
    rounded = rounding.round_to_half(model) if half else model
    if half:
        about["difference"] = rounding.half_difference(model, rounded)
    data = weights.encode_model(rounded.config, rounded.weights(), half=half)
    usage = f"vaecli reconstruct IMAGE.png -m {path}"
    return Written(path, data, {**about, "usage": usage})


def page(
    model: VAE,
    path: Path,
    loaded: LoadedModel,
    *,
    images: Images | None,
    drawn: Drawn | None,
) -> Written:
    """The page that decodes in a browser.

    Args:
        model: whose decoder it runs.
        path: of the file.
        loaded: where it comes from, for the title and what else the page tells of it.
        images: to show where they lie; None for no map.
        drawn: latents of a better prior than the model's own.
    """
    config, run = model.config, loaded.run
    trained = "" if run is None else f", trained on {run.config.data.name}"
    made = html.render(
        model,
        title=loaded.name,
        subtitle=f"Variational autoencoder, {config.arch}, {config.latents:,} latents{trained}",
        figures=_figures(run),
        embedding=None if images is None else html.embed(model, images),
        drawn=drawn,
    )
    prior = config.prior if drawn is None else drawn.prior
    return Written(path, made.text.encode(), {"difference": made.difference, "prior": prior})


def _figures(run: Run | None) -> Sequence[html.Figure]:
    """The test figures of the model card, from the run's last row."""
    rows = [] if run is None else run.read_metrics()
    if not rows:
        return []
    values = {
        "Loss per test image": rows[-1].test_loss,
        "Distortion": rows[-1].test_distortion,
        "Rate": rows[-1].test_rate,
    }
    return [html.Figure(name, f"{value:.2f}", "nats") for name, value in values.items()]
