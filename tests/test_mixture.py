from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import Vaecli
from vaecli.errors import ExitCode
from vaecli.evaluation.latent_space import Embedding
from vaecli.evaluation.mixture import Mixture, fit

TWO = Mixture(
    weights=np.array([0.25, 0.75]),
    means=np.array([[-4.0, 0.0], [3.0, 1.0]]),
    factors=np.array([[[0.5, 0.0], [0.2, 0.3]], [[1.0, 0.0], [-0.6, 0.4]]]),
)


def test_samples_have_the_moments_of_the_mixture() -> None:
    draws = TWO.sample(40_000, seed=3)
    first = draws[:, 0] < -1
    assert abs(float(first.mean()) - 0.25) < 0.01
    for chosen, place in ((first, 0), (~first, 1)):
        np.testing.assert_allclose(draws[chosen].mean(0), TWO.means[place], atol=0.03)
        covariance = TWO.factors[place] @ TWO.factors[place].T
        np.testing.assert_allclose(np.cov(draws[chosen].T), covariance, atol=0.05)
    assert (TWO.sample(50, seed=3) == draws[:50]).all()
    assert (TWO.sample(50, seed=4) != draws[:50]).any()
    cold = TWO.sample(50, seed=3, temperature=0)
    assert {tuple(row) for row in cold.tolist()} <= {(-4.0, 0.0), (3.0, 1.0)}


def test_fit_finds_a_known_mixture_with_the_spread_of_the_posteriors() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: vaecli[gmm]")
    mean = TWO.sample(6000, seed=1)
    fitted = fit(Embedding(mean, np.full_like(mean, np.log(0.25))), components=2, seed=0)
    order = fitted.means[:, 0].argsort()
    np.testing.assert_allclose(fitted.weights[order], TWO.weights, atol=0.02)
    np.testing.assert_allclose(fitted.means[order], TWO.means, atol=0.06)
    # draws of q(z|x), not their means: each has its own variance of 0.25 on top
    expected = TWO.factors @ TWO.factors.swapaxes(1, 2) + 0.25 * np.eye(2)
    found = fitted.factors[order] @ fitted.factors[order].swapaxes(1, 2)
    np.testing.assert_allclose(found, expected, atol=0.08)
    assert fitted.converged
    few = fit(Embedding(mean[:3], mean[:3]), seed=0)
    assert len(few.weights) == 3


def test_sample_from_the_mixture(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: vaecli[gmm]")
    common = ("sample", "-m", trained, "--data-dir", data_dir, "-n", "6")
    outcome = vaecli(*common, "--prior", "gmm", "-o", "a.npy")
    assert outcome.code == 0
    assert "10 Gaussians fitted to 500 latents of mnist, train split" in outcome.err
    assert vaecli(*common, "--prior", "gmm", "-o", "b.npy").code == 0
    assert vaecli(*common, "-o", "normal.npy").code == 0
    arrays = {name: np.load(f"{name}.npy") for name in ("a", "b", "normal")}
    assert (arrays["a"] == arrays["b"]).all()
    assert (arrays["a"] != arrays["normal"]).any()


def test_without_scikit_learn(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    outcome = vaecli("sample", "-m", trained, "--prior", "gmm", "--json")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "vaecli[gmm]" in json.loads(outcome.out)["error"]["hint"]
    assert not list(Path().glob("*.png"))
