from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model.bounds import elbo_terms
from vaecli.model.vae import build
from vaecli.noise import NormalNoise

CONFIG = ModelConfig(image_shape=(1, 6, 5), hidden=(12,), latent_dim=3)
MODEL = build(CONFIG, seed=0).double()
PIXELS = torch.randint(0, 256, (103, 1, 6, 5), generator=torch.Generator().manual_seed(1)).byte()
IMAGES = Images(PIXELS)
MANY = Images(PIXELS.repeat(3, 1, 1, 1)[:300])
MODULES = ("evaluate", "likelihood_estimate")


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in float64, so that orders of summation agree to 1e-9."""
    for module in MODULES:
        where = f"vaecli.evaluation.{module}.as_float"
        monkeypatch.setattr(where, lambda pixels: pixels.double() / 255)


@pytest.mark.parametrize("redraw", [False, True])
def test_batch_size_changes_nothing(redraw: bool) -> None:
    def run(batch_size: int) -> Evaluation:
        return evaluate(
            MODEL, MANY, seed=4, batch_size=batch_size, redraw=redraw, importance_samples=19
        )

    whole = run(1000)
    for batch_size in (1, 7, 102):
        other = run(batch_size)
        for name in ("loss", "distortion", "rate", "nll", "nll_se", "ess", "active_units"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), abs=1e-9), name
        assert other.kl_per_dim == pytest.approx(whole.kl_per_dim, abs=1e-9)
        torch.testing.assert_close(other.losses, whole.losses, atol=1e-9, rtol=0)


def test_the_order_of_images_changes_only_their_noise() -> None:
    """What is no draw is the same set of numbers in any order."""
    turned = evaluate(MODEL, Images(PIXELS.flip(0)), seed=4)
    straight = evaluate(MODEL, IMAGES, seed=4)
    assert turned.rate == pytest.approx(straight.rate, abs=1e-9)
    assert turned.kl_per_dim == pytest.approx(straight.kl_per_dim, abs=1e-9)
    torch.testing.assert_close(turned.rates.flip(0), straight.rates, atol=1e-9, rtol=0)
    torch.testing.assert_close(turned.means.flip(0), straight.means, atol=1e-9, rtol=0)


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others() -> None:
    first, second, other = (
        evaluate(MODEL, IMAGES, seed=seed, redraw=True, importance_samples=3) for seed in (4, 4, 5)
    )
    assert torch.equal(first.losses, second.losses)
    assert first.likelihoods is not None
    assert second.likelihoods is not None
    assert torch.equal(first.likelihoods.nll, second.likelihoods.nll)
    assert first.loss != other.loss
    assert first.nll != other.nll


def test_redrawn_images_are_black_and_white(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watch(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.double() / 255

    for module in MODULES:
        monkeypatch.setattr(f"vaecli.evaluation.{module}.as_float", watch)
    evaluate(MODEL, IMAGES, seed=4, redraw=True, importance_samples=2)
    (loss_pixels, likelihood_pixels) = seen
    assert set(loss_pixels.unique().tolist()) == {0, 255}
    # the likelihood is that of the same binary images as the loss
    assert torch.equal(loss_pixels, likelihood_pixels)
    assert torch.equal(loss_pixels[PIXELS == 255], PIXELS[PIXELS == 255])
    assert torch.equal(loss_pixels[PIXELS == 0], PIXELS[PIXELS == 0])


def test_progress_reaches_the_end_of_both_passes() -> None:
    told: dict[str, tuple[int, int | None]] = {}
    evaluate(
        MODEL,
        MANY,
        seed=4,
        importance_samples=19,
        progress=lambda what, done, total: told.update({what: (done, total)}),
    )
    assert told == {"loss": (300, 300), "likelihood": (5700, 5700)}


def test_it_is_the_mean_over_images_of_the_terms() -> None:
    images = PIXELS.double() / 255
    noise = NormalNoise(3, seed=4, purpose="evaluation").rows(0, len(images))
    with torch.no_grad():
        terms = elbo_terms(images, *MODEL(images, noise))
    result = evaluate(MODEL, IMAGES, seed=4, batch_size=10)
    assert result.n_images == 103
    assert result.distortion == pytest.approx(float(terms.distortion.mean()), abs=1e-9)
    assert result.rate == pytest.approx(float(terms.rate.mean()), abs=1e-9)
    assert result.loss == pytest.approx(float(terms.loss.mean()), abs=1e-9)
    assert result.elbo == -result.loss
    assert sum(result.kl_per_dim) == pytest.approx(result.rate)


def test_an_average_over_parts_is_weighted_by_their_size() -> None:
    parts = [evaluate(MODEL, Images(PIXELS[:60]), seed=0), evaluate(MODEL, IMAGES, seed=0)]
    rates = [part.rate for part in parts]
    tail = evaluate(MODEL, Images(PIXELS[60:]), seed=0).rate
    assert (60 * rates[0] + 43 * tail) / 103 == pytest.approx(rates[1], abs=1e-9)


def test_active_units_are_those_whose_mean_varies() -> None:
    model = build(CONFIG, seed=0).double()
    with torch.no_grad():
        model.encoder.mean.weight[1] = 0
    means = model.encoder(PIXELS.double() / 255)[0]
    expected = int((means.var(0, unbiased=False) > 0.01).sum())
    assert evaluate(model, IMAGES, seed=0).active_units == expected
    assert expected < 3
