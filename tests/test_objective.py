from __future__ import annotations

import pytest
import torch

from vaecli.config import Likelihood, ModelConfig, TrainConfig
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.vae import VAE, build
from vaecli.training.objective import PASS_VALUES, Draws, objective, passes
from vaecli.training.schedule import beta_at

CONFIG = ModelConfig(image_shape=(1, 4, 3), hidden=(9,), latent_dim=3)
MODEL = build(CONFIG, seed=1).double()
GENERATOR = torch.Generator().manual_seed(2)
PIXELS = torch.randint(0, 256, (10, 1, 4, 3), generator=GENERATOR).byte()
IMAGES = PIXELS.double() / 255


def gradients(model: VAE, value: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, list(model.parameters())))


def test_the_plain_objective_is_the_loss() -> None:
    noise = torch.randn(10, 3, dtype=torch.float64, generator=GENERATOR)
    outcome = objective(MODEL, IMAGES, noise, 1.0, 0.0)
    torch.testing.assert_close(outcome.objective, outcome.distortion + outcome.rate)
    halved = objective(MODEL, IMAGES, noise, 0.5, 0.0)
    torch.testing.assert_close(halved.objective, outcome.distortion + 0.5 * outcome.rate)
    # what is reported does not follow what is optimised
    for other in (halved, objective(MODEL, IMAGES, noise, 1.0, 2.0)):
        assert torch.equal(other.distortion, outcome.distortion)
        assert torch.equal(other.rate, outcome.rate)


def test_the_loss_beside_the_importance_bound_is_that_of_the_first_sample() -> None:
    noise = torch.randn(10, 6, 3, dtype=torch.float64, generator=GENERATOR)
    outcome = objective(MODEL, IMAGES, noise, 1.0, 0.0)
    first = objective(MODEL, IMAGES, noise[:, 0], 1.0, 0.0)
    torch.testing.assert_close(outcome.distortion, first.distortion)
    torch.testing.assert_close(outcome.rate, first.rate)
    # the order of the samples does not matter to the bound
    turned = objective(MODEL, IMAGES, noise.flip(1), 1.0, 0.0)
    torch.testing.assert_close(turned.objective, outcome.objective)


def test_the_gradient_of_parts_is_the_gradient_of_the_batch() -> None:
    noise = torch.randn(10, 6, 3, dtype=torch.float64, generator=GENERATOR)
    whole = gradients(MODEL, objective(MODEL, IMAGES, noise, 1.0, 0.0).objective.sum())
    parts = [torch.zeros_like(gradient) for gradient in whole]
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        part = objective(MODEL, IMAGES[start:stop], noise[start:stop], 1.0, 0.0)
        found = gradients(MODEL, part.objective.sum())
        parts = [a + b for a, b in zip(parts, found, strict=True)]
    torch.testing.assert_close(parts, whole)


def test_passes_cover_every_place_once_within_the_memory_allowed() -> None:
    model = ModelConfig(image_shape=(1, 28, 28))
    assert list(passes(7, 263, model, 1)) == [(7, 263)]
    for samples in (2, 50, 5000):
        pairs = list(passes(7, 263, model, samples))
        assert [place for pair in pairs for place in range(*pair)] == list(range(7, 263))
        for start, stop in pairs:
            assert (stop - start) * samples * 784 <= PASS_VALUES or stop - start == 1


def test_beta_rises_step_by_step_over_the_warm_up_epochs() -> None:
    training = TrainConfig(beta=4.0, warmup_epochs=2)
    assert [beta_at(step, 2, training) for step in range(6)] == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert beta_at(0, 10, TrainConfig()) == 1.0


@pytest.mark.parametrize("samples", [1, 5])
def test_draws_depend_on_place_and_epoch_alone(samples: int) -> None:
    training = TrainConfig(importance_samples=samples, binarize="dynamic")

    def draws(epoch: int = 3) -> Draws:
        return Draws(CONFIG, training, epoch, "cpu")

    whole = draws()
    images, noise = whole.images(PIXELS, 40), whole.noise(40, 50)
    assert noise.shape == ((10, 3) if samples == 1 else (10, 5, 3))
    for size in (1, 3, 7):
        other = draws()
        parts = range(0, 10, size)
        assert torch.equal(
            torch.cat([other.images(PIXELS[i : i + size], 40 + i) for i in parts]), images
        )
        assert torch.equal(
            torch.cat([other.noise(40 + i, min(50, 40 + i + size)) for i in parts]), noise
        )
    assert not torch.equal(draws(4).images(PIXELS, 40), images)
    assert not torch.equal(draws(4).noise(40, 50), noise)
    assert set(images.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", list(LIKELIHOODS))
@pytest.mark.parametrize("samples", [1, 4])
def test_every_parameter_has_a_gradient(name: Likelihood, samples: int) -> None:
    config = ModelConfig(image_shape=(1, 4, 3), hidden=(9,), latent_dim=3, likelihood=name)
    model = build(config, seed=1)
    scaled = [key for key in model.state_dict() if key.endswith("log_scale")]
    assert scaled == (["decoder.log_scale"] if name in ("gaussian", "logistic") else [])
    noise = torch.randn(10, samples, 3, generator=GENERATOR)
    if samples == 1:
        noise = noise[:, 0]
    outcome = objective(model, IMAGES.float(), noise, 1.0, 0.0)
    for gradient in gradients(model, outcome.objective.sum()):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
