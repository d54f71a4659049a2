"""Adam against torch's own optimizer class, and what it remembers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vaecli.training.flat import Flat
from vaecli.training.optimizer import Adam


@pytest.mark.parametrize("in_one_piece", [False, True])
def test_the_same_as_torch_optim(in_one_piece: bool) -> None:
    ours, theirs = nn.Linear(30, 20), nn.Linear(30, 20)
    theirs.load_state_dict(ours.state_dict())
    betas = (0.9, 0.98)
    parameters = dict(ours.named_parameters())
    flat = Flat(parameters) if in_one_piece else None
    adam = Adam(parameters, betas, flat)
    reference = torch.optim.Adam(theirs.parameters(), betas=betas)
    source = torch.Generator().manual_seed(0)
    for step in range(30):
        x, rate = torch.randn(8, 30, generator=source), 1e-3 * (1 + step % 7)
        adam.forget_gradients()
        if flat is not None:
            flat.gradients.zero_()
        reference.zero_grad()
        for network in (ours, theirs):
            network(x).square().sum().backward()
        adam.set_learning_rate(rate)
        adam.step()
        reference.param_groups[0]["lr"] = rate
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    state = dict(adam.state())
    for name, parameter in theirs.named_parameters():
        for kind, tensor in reference.state[parameter].items():
            torch.testing.assert_close(state[f"{kind}.{name}"], tensor, rtol=1e-5, atol=1e-6)


def test_parameters_in_one_piece_are_still_their_own() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flat = Flat(dict(network.named_parameters()))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.is_contiguous()
        assert torch.equal(flat.of(flat.values, name), value)
    assert flat.matrices == 4 * 3 + 3 * 3 + 3 * 2
    both = flat.of(flat.values, "1.weight", "2.weight")
    assert torch.equal(both, torch.cat([before["1.weight"], before["2.weight"]]))
    with pytest.raises(AssertionError):
        flat.of(flat.values, "0.weight", "1.weight")  # of other columns
    with pytest.raises(AssertionError):
        flat.of(flat.values, "2.weight", "1.weight")  # the wrong way round
    dict(network.named_parameters())["1.bias"].data.fill_(7.0)
    assert (flat.of(flat.values, "1.bias") == 7).all()


def test_its_state_is_all_it_remembers() -> None:
    """Copied into another one, that goes on with the same bits."""
    network = nn.Linear(4, 3)
    first = Adam(dict(network.named_parameters()), (0.9, 0.999))
    x = torch.ones(2, 4)

    def step(adam: Adam) -> None:
        adam.forget_gradients()
        network(x).exp().sum().backward()
        adam.set_learning_rate(0.1)
        adam.step()

    step(first)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    second = Adam(dict(network.named_parameters()), (0.9, 0.999))
    assert [name for name, _ in second.state()] == [
        f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in weights
    ]
    for (_, mine), (_, theirs) in zip(second.state(), first.state(), strict=True):
        mine.copy_(theirs)
    step(first)
    expected = network.weight.detach().clone()
    network.load_state_dict(weights)
    step(second)
    assert torch.equal(network.weight, expected)
