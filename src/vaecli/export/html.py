"""One HTML page that decodes in the browser: sliders, a map of embeddings, interpolation.

The decoder travels as a list of operations and their weights as fp16.  The last operation, from
the decoder's output to the mean of p(x|z), is the same function for every pixel.  It is exported
as a lookup table, so no likelihood has to be written again in JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from vaecli._version import __version__
from vaecli.data.dataset import Images
from vaecli.evaluation import latent_space
from vaecli.evaluation.generation import mean_image, mean_pixels
from vaecli.export.half import half_difference, round_to_half
from vaecli.model import convolution
from vaecli.model.precision import inference
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import ACTIVATIONS, VAE

TABLE_SIZE = 4097
TABLE_REACH = 9.0
"""The table is even in asinh(output) up to this, an output of about 4,000: fine around zero,
where every mean bends, and far out, where the continuous Bernoulli's still creeps to its limit."""
MAP_POINTS = 2000
EXAMPLES = 12

Operation = dict[str, Any]


@dataclass(frozen=True)
class Embedding:
    """Embeddings of a set of images.

    Attributes:
        means: (N, L) means of q(z|x).
        kl_per_dim: (L,) rate of each latent, nats per image.
        labels: (N,) index into `names` of each image, or None.
        names: what the labels are called.
    """

    means: Tensor
    kl_per_dim: Tensor
    labels: Tensor | None
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """One number of the model card."""

    name: str
    value: str
    unit: str


@dataclass(frozen=True)
class Page:
    """A page and what it costs.

    Attributes:
        text: the HTML.
        difference: largest change of a decoded pixel, in [0, 1], that fp16 weights make.
    """

    text: str
    difference: float


def embed(model: VAE, images: Images) -> Embedding:
    """Encode a set of images on the device of the model."""
    mean, log_variance = (part.cpu() for part in latent_space.embed(model, images.pixels))
    kl_per_dim = kl_to_prior(mean, log_variance).double().mean(0)
    names: list[str] = []
    labels = None
    if images.labels is not None:
        classes, labels = images.labels.cpu().unique(return_inverse=True)
        names = [str(value) for value in classes.tolist()]
    return Embedding(mean, kl_per_dim, labels, names)


def render(
    model: VAE,
    *,
    title: str,
    subtitle: str = "",
    figures: Sequence[Figure] = (),
    embedding: Embedding | None = None,
) -> Page:
    """The page of a model.

    Args:
        model: whose decoder the page runs.
        title: name of the model; any text at all.
        subtitle: one line about it.
        figures: of the model card.
        embedding: of test images, for the map and the order of the sliders.

    Raises:
        VaecliError: the weights do not fit into fp16.
    """
    rounded = round_to_half(model)
    operations, values = _program(rounded)
    found = half_difference(model, rounded)
    content = {
        "version": __version__,
        "title": title,
        "subtitle": subtitle,
        "figures": [vars(figure) for figure in figures],
        "shape": model.config.image_shape,
        "latents": model.config.latent_dim,
        "operations": operations,
        "weights": _base64(values, "<f2"),
        "difference": float(f"{found:.2g}"),
        "order": _order(rounded, embedding),
        "map": None if embedding is None else _map(embedding),
        "examples": [] if embedding is None else _examples(embedding),
    }
    return Page(_fill(content), found)


def _program(model: VAE) -> tuple[list[Operation], Tensor]:
    """The decoder as a list of operations, and their weights in order."""
    decoder = model.decoder
    steps = [*_steps(decoder.hidden), *_steps([decoder.output])]
    operations = [step for step, _ in steps]
    return [*operations, _mean_table(model)], torch.cat([values for _, values in steps])


def _steps(layers: Iterable[nn.Module]) -> Iterator[tuple[Operation, Tensor]]:
    """The operations of consecutive layers, and the weights of each."""
    activations = {kind: name for name, kind in ACTIVATIONS.items()}
    nothing = torch.empty(0)
    for layer in layers:
        match layer:
            case nn.Linear():
                step = {"kind": "linear", "inputs": layer.in_features}
                values = torch.cat([layer.weight.flatten(), layer.bias])
                yield {**step, "outputs": layer.out_features}, values
            case nn.Conv2d():
                bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
                step = {"kind": "convolution", "inputs": layer.in_channels}
                values = torch.cat([layer.weight.flatten(), bias])
                yield {**step, "outputs": layer.out_channels}, values
            case convolution.Residual():
                inner = list(_steps(layer.branch))
                steps = [step for step, _ in inner]
                yield {"kind": "residual", "steps": steps}, torch.cat([v for _, v in inner])
            case convolution.Enlarge():
                yield {"kind": "enlarge", "height": layer.size[0], "width": layer.size[1]}, nothing
            case convolution.Output():
                yield from _steps([layer.convolution])
                yield {"kind": "add", "count": layer.bias.numel()}, layer.bias
            case nn.Unflatten():
                _, height, width = layer.unflattened_size
                yield {"kind": "positions", "height": height, "width": width}, nothing
            case convolution.ChannelsLast():  # the page has its own layout
                pass
            case _:
                yield {"kind": activations[type(layer)]}, nothing


def _mean_table(model: VAE) -> Operation:
    """E[x|z] of a pixel as a function of the decoder's output, read by interpolation."""
    points = torch.sinh(torch.linspace(-TABLE_REACH, TABLE_REACH, TABLE_SIZE))
    return {
        "kind": "table",
        "reach": TABLE_REACH,
        "values": _base64(mean_pixels(model, points), "<f4"),
    }


@inference()
def _order(model: VAE, embedding: Embedding | None) -> dict[str, Any]:
    """The latents, most active first: by KL where known, else by what they change in the image."""
    if embedding is not None:
        by, weight = "kl", embedding.kl_per_dim
    else:
        steps = 2 * torch.eye(model.config.latent_dim)
        change = mean_image(model, steps) - mean_image(model, -steps)
        by, weight = "effect", change.abs().flatten(1).mean(1)
    order = weight.argsort(descending=True, stable=True).tolist()
    return {"by": by, "sliders": [{"latent": i, "weight": _short(weight[i])} for i in order]}


def _map(embedding: Embedding) -> dict[str, Any] | None:
    """The plane the map shows and the embeddings on it; None for a single latent.

    Two latents are the plane themselves; more are cut by the plane of the two principal
    components.  A point (u, v) of the map stands for the latent centre + u*axes[0] + v*axes[1].
    """
    means = embedding.means.double()
    latent_dim = means.shape[1]
    if latent_dim < 2:
        return None
    if latent_dim == 2:
        centre, axes, points, share = torch.zeros(2), torch.eye(2), means, None
    else:
        points, shares, directions = latent_space.principal_components(means, 2)
        centre, axes = means.mean(0), directions.T
        share = _short(shares.sum()) or None  # None where all means are equal
    labels = None if embedding.labels is None else embedding.labels[:MAP_POINTS].tolist()
    return {
        "plane": "latents" if latent_dim == 2 else "principal components",
        "share": share,
        "centre": _shorts(centre),
        "axes": [_shorts(axis) for axis in axes],
        "points": _shorts(points[:MAP_POINTS].flatten()),
        "labels": labels,
        "names": list(embedding.names),
    }


def _examples(embedding: Embedding) -> list[dict[str, Any]]:
    """Images to start from: the first of every label in turn, or simply the first."""
    count = len(embedding.means)
    labels = torch.zeros(count) if embedding.labels is None else embedding.labels
    places = [torch.nonzero(labels == label).flatten().tolist() for label in labels.unique()]
    rounds = range(max(map(len, places), default=0))
    chosen = [place[turn] for turn in rounds for place in places if turn < len(place)][:EXAMPLES]
    return [
        {
            "latent": _shorts(embedding.means[index]),
            "name": embedding.names[int(labels[index])] if embedding.labels is not None else "",
        }
        for index in chosen
    ]


def _fill(content: dict[str, Any]) -> str:
    """The template with its data, and a policy that runs its one script and fetches nothing."""
    template = resources.files("vaecli.export").joinpath("explorer.html").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    # a JSON string cannot end the script element it stands in once "<" is escaped
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return template.replace("{{script-hash}}", digest, 1).replace("{{data}}", data, 1)


def _base64(values: Tensor, dtype: str) -> str:
    return base64.b64encode(values.detach().numpy().astype(dtype).tobytes()).decode()


def _short(value: Tensor) -> float:
    return float(f"{float(value):.4g}")


def _shorts(values: Tensor) -> list[float]:
    return [_short(value) for value in values]
