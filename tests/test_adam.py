"""Adam against torch's own optimizer class, and what it remembers."""

from __future__ import annotations

import torch
from torch import nn

from vaecli.training.optimizer import Adam


def test_the_same_as_torch_optim() -> None:
    ours, theirs = nn.Linear(30, 20), nn.Linear(30, 20)
    theirs.load_state_dict(ours.state_dict())
    betas = (0.9, 0.98)
    adam = Adam(dict(ours.named_parameters()), betas)
    reference = torch.optim.Adam(theirs.parameters(), betas=betas)
    source = torch.Generator().manual_seed(0)
    for step in range(30):
        x, rate = torch.randn(8, 30, generator=source), 1e-3 * (1 + step % 7)
        adam.forget_gradients()
        reference.zero_grad()
        for network in (ours, theirs):
            network(x).square().sum().backward()
        adam.set_learning_rate(rate)
        adam.step()
        reference.param_groups[0]["lr"] = rate
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


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
