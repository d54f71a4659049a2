from __future__ import annotations

import pytest
import torch

from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.evaluation import evaluate
from vaecli.loss import elbo_terms
from vaecli.model import build
from vaecli.noise import NormalNoise

CONFIG = ModelConfig(image_shape=(1, 6, 5), hidden=(12,), latent_dim=3)
MODEL = build(CONFIG, seed=0).double()
PIXELS = torch.randint(0, 256, (103, 1, 6, 5), generator=torch.Generator().manual_seed(1)).byte()
IMAGES = Images(PIXELS)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in float64, so that orders of summation agree to 1e-9."""
    monkeypatch.setattr("vaecli.evaluation.as_float", lambda pixels: pixels.double() / 255)


def test_batch_size_changes_nothing() -> None:
    whole = evaluate(MODEL, IMAGES, seed=4, batch_size=1000)
    for batch_size in (1, 7, 102):
        other = evaluate(MODEL, IMAGES, seed=4, batch_size=batch_size)
        assert other.loss == pytest.approx(whole.loss, abs=1e-9)
        assert other.rate == pytest.approx(whole.rate, abs=1e-9)
        assert other.kl_per_dim == pytest.approx(whole.kl_per_dim, abs=1e-9)


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
