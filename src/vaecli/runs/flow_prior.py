"""The prior of `--prior flow-matching`, kept in its run as `prior-flow-matching.safetensors`.

Its header says which weights it was fitted to, and how; with others, or of another network, it
counts as absent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from vaecli.config import ModelConfig
from vaecli.errors import ModelError
from vaecli.model.flow_matching import VERSION, FlowMatching, VelocityField, groups
from vaecli.runs import weights
from vaecli.runs.directory import FLOW_PRIOR, Run

FIELD, GUIDE = "field.", "guide."
"""What the names of the weights of the network begin with, and of its earlier state."""
_REMEDY = "Remove the file, and it is fitted again."


class FittedFlow(NamedTuple):
    """A prior, and what it was fitted to.

    Attributes:
        prior: it.
        fitted: how many training images it was fitted to.
        held_out: others, on whose error its weights were chosen.
        steps: the step after which they were taken.
        guide_steps: the step after which those of the guide were taken; None without a guide.
        error: mean squared error of the velocity on the others, of latents with variance 1.
    """

    prior: FlowMatching
    fitted: int
    held_out: int
    steps: int
    guide_steps: int | None
    error: float


def field_of(config: ModelConfig) -> VelocityField:
    """The network for the latents of a model, newly initialised by torch's random state."""
    return VelocityField(groups(config), len(config.classes))


def read(run: Run, model: weights.Arrays) -> FlowMatching | None:
    """The prior kept in a run, on the CPU, or None where none of these weights is.

    Args:
        run: the run.
        model: its weights.

    Raises:
        ModelError: the file is not as `write` makes it.
    """
    path = run.path / FLOW_PRIOR
    if not path.exists():
        return None
    with weights.open_weights(path) as file:
        try:
            header = weights.read_header(file)
            if header.info.get("prior") != FlowMatching.name:
                raise ValueError("it is no prior that vaecli fitted by flow matching")
            version = header.info.get("network")
            if version != VERSION or header.info.get("model") != weights.digest(model):
                return None
            networks = {FIELD: _unfilled(run.config.model)}
            if header.info.get("guide_steps") is not None:
                networks[GUIDE] = _unfilled(run.config.model)
            found = weights.read_tensors(
                file, header, _expected(networks, run.config.model.latents)
            )
            if (found["scale"] <= 0).any():
                raise ValueError("a scale of a latent is not positive")
        except ValueError as error:
            raise ModelError(f"{path}: {error}", _REMEDY) from None
    for prefix, network in networks.items():
        state = {name: torch.from_numpy(found[prefix + name]) for name in _state(network)}
        network.load_state_dict(state, assign=True)
    return FlowMatching(networks[FIELD], networks.get(GUIDE), found["centre"], found["scale"])


def write(run: Run, model: weights.Arrays, flow: FittedFlow) -> None:
    """Keep a prior fitted to the latents of these weights, under the run's lock.

    Raises:
        BusyError: another process uses the run.
        OSError: the run cannot be written to.
    """
    prior = flow.prior
    info = {
        "prior": prior.name,
        "network": VERSION,
        "model": weights.digest(model),
        "fitted": flow.fitted,
        "held_out": flow.held_out,
        "steps": flow.steps,
        "guide_steps": flow.guide_steps,
        "error": flow.error,
    }
    tensors = {"centre": prior.centre, "scale": prior.scale}
    for prefix, network in ((FIELD, prior.field), (GUIDE, prior.guide)):
        if network is not None:
            own = _state(network).items()
            tensors |= {prefix + name: tensor.cpu().numpy() for name, tensor in own}
    with run.locked():
        run.write(FLOW_PRIOR, weights.encode(tensors, info))


def _state(field: VelocityField) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = field.state_dict()
    return state


def _unfilled(config: ModelConfig) -> VelocityField:
    with torch.device("meta"):
        return field_of(config)


def _expected(
    networks: dict[str, VelocityField], latents: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Types and shapes of all tensors of a file."""
    own = {
        prefix + name: ("float32", tuple(each.shape))
        for prefix, network in networks.items()
        for name, each in _state(network).items()
    }
    return {**own, "centre": ("float32", (latents,)), "scale": ("float32", (latents,))}
