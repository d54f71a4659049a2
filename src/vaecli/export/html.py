"""One HTML page that decodes in the browser: sliders, a map of embeddings, interpolation.

The decoder travels as a list of operations and their weights as fp16.  The last operation, from
the decoder's output to the mean of p(x|z), is the same function for every pixel.  It is exported
as a lookup table, so no likelihood has to be written again in JavaScript; but for the mixture,
whose mean depends on several numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecli._version import __version__
from vaecli.config import MIXTURE_COMPONENTS
from vaecli.data.dataset import Images
from vaecli.data.labels import of_images
from vaecli.evaluation import latent_space
from vaecli.export.drawn import Drawn
from vaecli.export.half import half_difference, round_to_half
from vaecli.model import network
from vaecli.model import operations as op
from vaecli.model.network import FLOW_WIDTH
from vaecli.model.numpy_learned_prior import DiagonalMixture, Flow
from vaecli.model.numpy_likelihoods import PIXELS
from vaecli.model.operations import placed
from vaecli.model.vae import VAE, TorchRunner

TABLE_SIZE = 4097
TABLE_REACH = 9.0
"""The table is even in asinh(output) up to this, an output of about 4,000: fine around zero,
where every mean bends, and far out, where the continuous Bernoulli's still creeps to its limit."""
MAP_POINTS = 2000
EXAMPLES = 12

Operation = dict[str, Any]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Embedding:
    """Embeddings of a set of images.

    Attributes:
        means: (N, L) means of q(z|x).
        kl_per_dim: (L,) rate of each latent, nats per image.
        labels: (N,) index into `names` of each image, or None.
        names: what the labels are called.
    """

    means: Floats
    kl_per_dim: Floats
    labels: NDArray[np.int64] | None
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
    runner = TorchRunner(model)
    found = latent_space.embed(runner, images)
    names: list[str] = []
    labels = None
    if images.labels is not None:
        classes, labels = np.unique(images.labels, return_inverse=True)
        names = [str(value) for value in classes.tolist()]
    if model.config.classes:
        labels, names = of_images(model.config, images), list(model.config.classes)
    kl_per_dim = np.array(latent_space.dimensions(found, runner.prior).kl)
    return Embedding(found.mean, kl_per_dim, labels, names)


def render(
    model: VAE,
    *,
    title: str,
    subtitle: str = "",
    figures: Sequence[Figure] = (),
    embedding: Embedding | None = None,
    drawn: Drawn | None = None,
) -> Page:
    """The page of a model.

    Args:
        model: whose decoder the page runs.
        title: name of the model; any text at all.
        subtitle: one line about it.
        figures: of the model card.
        embedding: of test images, for the map and the order of the sliders.
        drawn: latents that the page chooses among, in place of drawing from the model's own prior.

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
        "latents": model.config.latents,
        "classes": [
            {"name": name, "option": shlex.join(["--label", name])} for name in model.config.classes
        ],
        "operations": operations,
        "weights": _base64(values, "<f2"),
        "difference": float(f"{found:.2g}"),
        "prior": _prior(rounded, drawn),
        "order": _order(rounded, embedding),
        "map": None if embedding is None else _map(embedding),
        "examples": [] if embedding is None else _examples(embedding),
    }
    return Page(_fill(content), found)


def _prior(model: VAE, drawn: Drawn | None) -> dict[str, Any]:
    """What the page draws from: where each latent lies, and the numbers of a prior, or draws."""
    prior = TorchRunner(model).prior
    mean, std = prior.moments
    about = {"kind": prior.name, "mean": mean.tolist(), "std": std.tolist()}
    if drawn is not None:
        count = len(drawn.latents)
        how = {"kind": "drawn", "name": drawn.prior, "count": count, "classes": drawn.classes}
        return {**about, **how, "values": _base64([drawn.latents], "<f2")}
    if isinstance(prior, DiagonalMixture):
        parts = [prior.weights, prior.means, prior.scales]
        return {**about, "count": len(prior.weights), "values": _base64(parts, "<f4")}
    if isinstance(prior, Flow):
        values = [part for layers in prior.layers for part in layers]
        return {**about, "width": FLOW_WIDTH, "values": _base64(values, "<f4")}
    return about


def _program(model: VAE) -> tuple[list[Operation], list[Floats]]:
    """The decoder as a list of operations, and their weights in order."""
    net, weights = network.of(model.config), model.weights()
    layers = [*placed("decoder.hidden", net.decoder), ("decoder.output", net.output)]
    steps = [step for name, layer in layers for step in _steps(name, layer, weights)]
    if net.class_shapes():
        tables = [weights[name] for name in net.class_shapes()]
        count, width = tables[0].shape
        steps.insert(0, ({"kind": "of_class", "classes": count, "count": width}, tables))
    operations = [operation for operation, _ in steps]
    mean: Operation = {"kind": "mixture", "components": MIXTURE_COMPONENTS}
    if model.config.likelihood != "logistic-mixture":
        mean = _mean_table(model)
    return [*operations, mean], [part for _, parts in steps for part in parts]


def _steps(
    name: str, layer: op.Operation, weights: Mapping[str, Floats]
) -> Iterator[tuple[Operation, list[Floats]]]:
    """What the page does for one operation, and the weights of each step."""
    match layer:
        case op.Linear(inputs, outputs, classes):
            step = {"kind": "linear", "inputs": inputs, "outputs": outputs}
            values = [weights[f"{name}.weight"], weights[f"{name}.bias"]]
            yield _with_classes(name, step, classes, values, weights)
        case op.Convolution(inputs, outputs, 1, has_bias):
            bias = weights[f"{name}.bias"] if has_bias else np.zeros(outputs, np.float32)
            step = {
                "kind": "convolution",
                "inputs": inputs,
                "outputs": outputs,
                "reach": layer.size // 2,
            }
            yield step, [weights[f"{name}.weight"], bias]
        case op.Residual():
            inner = [
                step
                for place, operation in placed(f"{name}.branch", layer.branch)
                for step in _steps(place, operation, weights)
            ]
            values = [part for _, parts in inner for part in parts]
            yield {"kind": "residual", "steps": [step for step, _ in inner]}, values
        case op.Enlarge(height, width):
            yield {"kind": "enlarge", "height": height, "width": width}, []
        case op.Output():
            yield from _steps(f"{name}.convolution", layer.convolution, weights)
            if layer.shuffled:
                yield {"kind": "shuffle", "height": layer.shape[1], "width": layer.shape[2]}, []
            bias = weights[f"{name}.bias"]
            yield {"kind": "add", "count": bias.size}, [bias]
        case op.Unflatten((_, height, width)):
            yield {"kind": "positions", "height": height, "width": width}, []
        case op.Nonlinearity(activation):
            yield {"kind": activation}, []
        case op.Constant((_, height, width), classes):
            value = weights[f"{name}.value"]
            step = {"kind": "constant", "count": value.size, "height": height, "width": width}
            yield _with_classes(name, step, classes, [value], weights)
        case op.Inject(start, (channels, height, width), outputs):
            step = {"kind": "inject", "start": start, "inputs": channels, "outputs": outputs}
            yield {**step, "reach": 0}, [weights[f"{name}.weight"], weights[f"{name}.bias"]]
        case op.ChannelsLast():  # the page has its own layout
            pass
        case _:
            raise AssertionError(f"the page has no {layer}")


def _with_classes(
    name: str,
    step: Operation,
    classes: int,
    values: list[Floats],
    weights: Mapping[str, Floats],
) -> tuple[Operation, list[Floats]]:
    """A step and its weights with the rows of classes, where it has some."""
    if not classes:
        return step, values
    return {**step, "classes": classes}, [*values, weights[f"{name}.{op.CLASS_ROWS}"]]


def _mean_table(model: VAE) -> Operation:
    """E[x|z] of a pixel as a function of the decoder's output, read by interpolation."""
    points = np.sinh(np.linspace(-TABLE_REACH, TABLE_REACH, TABLE_SIZE)).astype(np.float32)
    scale = TorchRunner(model).log_scale
    mean = PIXELS[model.config.likelihood].mean(points, scale).clip(0, 1)
    return {"kind": "table", "reach": TABLE_REACH, "values": _base64([mean], "<f4")}


def _order(model: VAE, embedding: Embedding | None) -> dict[str, Any]:
    """The latents, most active first: by KL where known, else by what they change in the image."""
    if embedding is not None:
        by, weight = "kl", embedding.kl_per_dim
    else:
        runner = TorchRunner(model)
        centre, scale = runner.prior.moments
        steps = 2 * np.diag(scale)
        mean, log_scale = PIXELS[model.config.likelihood].mean, runner.log_scale
        counts = model.config.class_counts
        labels = np.full(len(steps), np.argmax(counts)) if counts else None
        high, low = (
            mean(runner.decode(way, labels), log_scale).clip(0, 1)
            for way in (centre + steps, centre - steps)
        )
        by, weight = "effect", np.abs(high - low).mean((1, 2, 3))
    order = np.argsort(-weight, kind="stable").tolist()
    return {"by": by, "sliders": [{"latent": i, "weight": _short(weight[i])} for i in order]}


def _map(embedding: Embedding) -> dict[str, Any] | None:
    """The plane the map shows and the embeddings on it; None for a single latent.

    Two latents are the plane themselves; more are cut by the plane of the two principal
    components.  A point (u, v) of the map stands for the latent centre + u*axes[0] + v*axes[1].
    """
    means = embedding.means.astype(np.float64)
    latent_dim = means.shape[1]
    if latent_dim < 2:
        return None
    if latent_dim == 2:
        centre, axes, points, share = np.zeros(2), np.eye(2), means, None
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
        "points": _shorts(points[:MAP_POINTS].ravel()),
        "labels": labels,
        "names": list(embedding.names),
    }


def _examples(embedding: Embedding) -> list[dict[str, Any]]:
    """Images to start from: the first of every label in turn, or simply the first."""
    count = len(embedding.means)
    labels = np.zeros(count) if embedding.labels is None else embedding.labels
    places = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    rounds = range(max(map(len, places), default=0))
    chosen = [place[turn] for turn in rounds for place in places if turn < len(place)][:EXAMPLES]
    return [
        {
            "latent": _shorts(embedding.means[index]),
            "name": embedding.names[int(labels[index])] if embedding.labels is not None else "",
            "label": int(labels[index]),
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


def _base64(values: Sequence[Floats], dtype: str) -> str:
    return base64.b64encode(b"".join(part.astype(dtype).tobytes() for part in values)).decode()


def _short(value: float) -> float:
    return float(f"{float(value):.4g}")


def _shorts(values: Floats) -> list[float]:
    return [_short(value) for value in values]
