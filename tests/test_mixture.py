"""The mixture of `--prior gmm`: its density, its fit, and the file in which a run keeps it."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import vaecli as package
from conftest import Vaecli
from vaecli.errors import ExitCode, ModelError, UsageError
from vaecli.evaluation import mixture as fitting
from vaecli.evaluation import shrunk_mixture
from vaecli.evaluation.latent_space import Embedding
from vaecli.evaluation.mixture import fit
from vaecli.model import numpy_prior
from vaecli.model.numpy_prior import Mixture, Normal, Prior
from vaecli.model.prior import FullMixture, kl_to_prior, log_gain
from vaecli.runs import fitted_prior, weights
from vaecli.runs.directory import FITTED_PRIOR, open_run
from vaecli.runs.load import load_model

TWO = Mixture(
    weights=np.array([0.25, 0.75]),
    means=np.array([[-4.0, 0.0], [3.0, 1.0]]),
    factors=np.array([[[0.5, 0.0], [0.2, 0.3]], [[1.0, 0.0], [-0.6, 0.4]]]),
)
ONE = Mixture(np.array([0.3, 0.7]), np.array([[-2.0], [1.0]]), np.array([[[0.4]], [[1.5]]]))
REFERENCE = MixtureSameFamily(
    Categorical(torch.from_numpy(TWO.weights)),
    MultivariateNormal(torch.from_numpy(TWO.means), scale_tril=torch.from_numpy(TWO.factors)),
)
"""The same as `TWO`, by torch."""


@pytest.mark.parametrize("prior", [ONE, TWO, Normal(1), Normal(2)], ids=lambda p: p.name)
def test_a_prior_integrates_to_one(prior: Prior) -> None:
    """By quadrature over a box that holds all of it."""
    dimension = prior.draw(1, seed=0).shape[1]
    axis = np.linspace(-12, 12, 2401 if dimension == 1 else 601)
    points = np.stack(np.meshgrid(*[axis] * dimension), -1).reshape(-1, dimension)
    mass = np.exp(prior.log_prob(points)).sum() * (axis[1] - axis[0]) ** dimension
    assert mass == pytest.approx(1, abs=1e-6)


def test_its_density_is_that_of_torch_in_both_interpreters() -> None:
    points = 4 * np.random.default_rng(0).standard_normal((300, 2))
    expected = REFERENCE.log_prob(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(TWO.log_prob(points), expected, rtol=1e-12)
    found = FullMixture(TWO)(torch.from_numpy(points).view(100, 3, 2))
    np.testing.assert_allclose(found.view(-1), expected, rtol=1e-12)
    np.testing.assert_allclose(TWO.log_prob(points[:7]), TWO.log_prob(points)[:7], rtol=1e-13)


def test_draws_have_the_density_of_the_mixture() -> None:
    draws = TWO.draw(40_000, seed=3)
    first = draws[:, 0] < -1
    assert abs(float(first.mean()) - 0.25) < 0.01
    for chosen, place in ((first, 0), (~first, 1)):
        np.testing.assert_allclose(draws[chosen].mean(0), TWO.means[place], atol=0.03)
        covariance = TWO.factors[place] @ TWO.factors[place].T
        np.testing.assert_allclose(np.cov(draws[chosen].T), covariance, atol=0.05)
    # the mean log density at draws is the negative entropy, as draws of torch's find it
    torch.manual_seed(0)
    others = REFERENCE.log_prob(REFERENCE.sample((40_000,)))
    assert TWO.log_prob(draws).mean() == pytest.approx(float(others.mean()), abs=0.02)
    assert (TWO.draw(50, seed=3) == draws[:50]).all()
    assert (TWO.draw(50, seed=4) != draws[:50]).any()
    cold = TWO.draw(50, seed=3, temperature=0)
    assert {tuple(row) for row in cold.tolist()} <= {(-4.0, 0.0), (3.0, 1.0)}


def test_the_rate_is_the_divergence_in_expectation() -> None:
    """Against quadrature; and for N(0, I) it is the closed form, without any noise."""
    mean, log_variance = np.array([[0.7]]), np.array([[-1.0]])
    axis = np.linspace(-12, 12, 20_001)[:, None]
    std = np.exp(0.5 * log_variance)
    log_q = -0.5 * ((axis - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    density = np.exp(log_q[:, 0])
    step = axis[1, 0] - axis[0, 0]
    exact = float((density * (log_q[:, 0] - ONE.log_prob(axis))).sum() * step)
    noise = np.random.default_rng(0).standard_normal((200_000, 1))
    latents = mean + std * noise
    many = np.broadcast_to(mean, noise.shape), np.broadcast_to(log_variance, noise.shape)
    rates = numpy_prior.rate(ONE, *many, latents)
    assert rates.mean() == pytest.approx(exact, abs=4 * rates.std() / 200_000**0.5)
    closed = numpy_prior.rate(Normal(1), *many, latents)
    assert closed[0] == closed[1] == pytest.approx(0.5 * (0.49 + np.exp(-1.0) - 1 + 1.0))
    gain = log_gain(FullMixture(ONE), torch.from_numpy(latents))
    in_torch = kl_to_prior(*map(torch.tensor, many)).sum(1) - gain
    np.testing.assert_allclose(in_torch, rates, rtol=1e-10, atol=1e-12)


def spread(mean: NDArray[np.float32], variance: float) -> Embedding:
    return Embedding(mean, np.full_like(mean, np.log(variance)))


def test_fit_finds_a_known_mixture_with_the_spread_of_the_posteriors() -> None:
    mean = TWO.draw(6000, seed=1)
    fitted = fit(spread(mean, 0.25), sizes=[2], seed=0)
    assert (fitted.fitted, fitted.held_out) == (5000, 1000)
    found = fitted.mixture
    order = found.means[:, 0].argsort()
    np.testing.assert_allclose(found.weights[order], TWO.weights, atol=0.02)
    np.testing.assert_allclose(found.means[order], TWO.means, atol=0.07)
    # draws of q(z|x), not their means: each has its own variance of 0.25 on top
    expected = TWO.factors @ TWO.factors.swapaxes(1, 2) + 0.25 * np.eye(2)
    covariances = found.factors[order] @ found.factors[order].swapaxes(1, 2)
    np.testing.assert_allclose(covariances, expected, atol=0.08)
    assert found.weights.sum() == pytest.approx(1)


def test_fit_is_as_dense_as_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.mixture", reason="needs scikit-learn: the test group")
    draws = np.random.default_rng(2).standard_normal((3000, 4)) ** 3
    embedding = spread(draws.astype(np.float32), 1e-12)
    other = sklearn.GaussianMixture(8, reg_covar=1e-4, random_state=2).fit(draws)
    ours = fit(embedding, sizes=[8], seed=0).mixture
    assert ours.log_prob(draws).mean() > other.score(draws) - 0.1


def test_passes_never_lose_density() -> None:
    draws = TWO.draw(2000, seed=5).astype(np.float64)
    found = fitting._Fitting(draws, 6, 0, None)
    mixture, scores = found._maximised(found._first_sums()), []
    for _ in range(20):
        score, sums = found._expected(mixture)
        assert score == pytest.approx(mixture.log_prob(draws).mean(), rel=1e-9)
        scores.append(score)
        mixture = found._maximised(sums)
    assert (np.diff(scores) > -1e-4).all()  # the spread added to a variance may cost a little
    assert scores[-1] > scores[0]


def test_held_out_draws_choose_the_size() -> None:
    """More components always fit the draws better; too many are worse elsewhere."""
    few = fit(spread(TWO.draw(240, seed=1), 0.01), sizes=[1, 2, 60], seed=0)
    assert len(few.mixture.weights) == 2
    assert (few.fitted, few.held_out) == (200, 40)


def test_many_latents_get_one_gaussian_that_is_better_than_both_of_its_ends() -> None:
    """300 latents in which 10 directions vary; 400 images do not determine 300 variances."""
    random = np.random.default_rng(0)
    axes = random.standard_normal((300, 10))
    truth = MultivariateNormal(
        torch.zeros(300).double(), torch.from_numpy(axes @ axes.T + np.eye(300))
    )
    torch.manual_seed(0)
    draws, fresh = (truth.sample((count,)).numpy() for count in (480, 2000))
    found = fit(spread(draws.astype(np.float32), 1e-9), seed=0)
    assert (found.fitted, found.held_out) == (400, 80)
    assert found.mixture.factors.shape == (1, 300, 300)
    score = found.mixture.log_prob(fresh).mean()
    assert score < truth.log_prob(torch.from_numpy(fresh)).mean()
    for share in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shrunk_mixture, "SHRINKAGES", (share,))
            end = fit(spread(draws.astype(np.float32), 1e-9), seed=0).mixture
        assert score > end.log_prob(fresh).mean() + 10


def calm_and_wild(count: int, latents: int, seed: int) -> NDArray[np.float32]:
    """Draws that are all wide or all narrow, as the latents of rough and of smooth pictures are."""
    random = np.random.default_rng(seed)
    scale = np.where(random.random((count, 1)) < 0.3, 1.6, 0.4)
    return (scale * random.standard_normal((count, latents))).astype(np.float32)


def test_many_latents_get_several_gaussians_where_that_is_better() -> None:
    latents = 260
    draws, fresh = (calm_and_wild(4000, latents, seed) for seed in (1, 2))
    found = fit(spread(draws, 1e-9), seed=0)
    weights = found.mixture.weights
    assert len(weights) == shrunk_mixture.COMPONENTS
    assert weights.sum() == pytest.approx(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrunk_mixture, "MOST_LATENTS", 0)
        one = fit(spread(draws, 1e-9), seed=0).mixture
    assert len(one.weights) == 1
    gain = found.mixture.log_prob(fresh).mean() - one.log_prob(fresh).mean()
    truth = np.logaddexp(
        *(
            math.log(weight)
            + torch.distributions.Normal(0, scale).log_prob(torch.from_numpy(fresh)).sum(1).numpy()
            for weight, scale in ((0.3, 1.6), (0.7, 0.4))
        )
    ).mean()
    assert 40 < gain < truth - one.log_prob(fresh).mean() + 1
    drawn = np.abs(found.mixture.draw(2000, seed=0)).mean(1)
    assert ((drawn < 0.6).mean(), (drawn > 1).mean()) == pytest.approx((0.7, 0.3), abs=0.05)
    three = fit(spread(draws, 1e-9), seed=0, workers=3).mixture
    assert (three.factors == fit(spread(draws, 1e-9), seed=0, workers=1).mixture.factors).all()


def test_a_few_images_that_vary_far_more_than_the_others() -> None:
    """Sums in float32 left covariances of them that were not positive."""
    random = np.random.default_rng(0)
    low = random.standard_normal((1500, 2)) @ random.standard_normal((2, 300))
    wild = low * np.exp(2 * random.standard_normal((1500, 1)))
    found = fit(spread(wild.astype(np.float32), 1e-9), seed=0).mixture
    assert np.isfinite(found.log_prob(wild)).all()


def test_too_few_images_for_several_gaussians_get_one() -> None:
    few = calm_and_wild(shrunk_mixture.DRAWS_PER_LATENT * 260, 260, seed=1)  # a sixth is held out
    assert len(fit(spread(few, 1e-9), seed=0).mixture.weights) == 1


@pytest.mark.parametrize("latents", [3, 300])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_images_give_a_mixture_too(count: int, latents: int) -> None:
    same = np.ones((count, latents), np.float32)
    found = fit(spread(same, 1e-9), seed=0).mixture
    assert np.isfinite(found.log_prob(same)).all()
    np.testing.assert_allclose(found.draw(5, seed=0), np.ones((5, latents)), atol=0.01)


def test_fit_does_not_depend_on_the_threads() -> None:
    mean = TWO.draw(30_000, seed=1)
    one, three = (
        fit(spread(mean, 0.1), sizes=[3], seed=0, workers=workers).mixture for workers in (1, 3)
    )
    assert (one.means == three.means).all()
    assert (one.factors == three.factors).all()


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "own"))


def test_fitted_once_and_named(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    common = ("-m", run, "--data-dir", data_dir)
    plain = json.loads(vaecli("eval", *common, "--json").out)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = vaecli("eval", *common, "--json", "--prior", "gmm", "--importance-samples", "3")
    assert "fitted to 417 latents of mnist, train split; chosen by 83 others" in outcome.err
    value = json.loads(outcome.out)
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert not changed
    assert (run / FITTED_PRIOR).is_file()
    assert (plain["prior"], value["prior"]) == ("normal", "gmm")
    assert "loss_normal" not in plain
    assert "nll_normal" not in plain
    assert value["loss_normal"] == pytest.approx(plain["loss"], rel=1e-12)
    assert value["distortion"] == plain["distortion"]
    assert value["kl_per_dim"] == plain["kl_per_dim"]
    assert value["loss"] == pytest.approx(value["distortion"] + value["rate"])
    assert value["loss"] < value["loss_normal"]
    assert value["nll"] < value["nll_normal"]
    normal = json.loads(vaecli("eval", *common, "--json", "--importance-samples", "3").out)
    assert value["nll_normal"] == pytest.approx(normal["nll"], rel=1e-9)
    assert "Monte Carlo" in value["protocol"]

    again = vaecli("eval", *common, "--prior", "gmm", "--per-image", "scores.jsonl")
    assert "kept in" in again.err
    rows = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    assert {row["prior"] for row in rows} == {"gmm"}
    mean = {key: np.mean([row[key] for row in rows]) for key in ("loss", "loss_normal", "rate")}
    for key, found in mean.items():
        assert found == pytest.approx(value[key], abs=1e-5)


def test_other_weights_need_another_mixture(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    common = ("sample", "-m", run, "--data-dir", data_dir, "-n", "2", "-f", "--prior", "gmm")
    assert "fitted to" in vaecli(*common).err
    kept = (run / FITTED_PRIOR).read_bytes()
    assert "kept in" in vaecli(*common).err
    config, tensors = weights.read_model(run / "model.safetensors")
    tensors["encoder.mean.bias"] = tensors["encoder.mean.bias"] + 1
    (run / "model.safetensors").write_bytes(weights.encode_model(config, tensors))
    assert "fitted to" in vaecli(*common).err
    assert (run / FITTED_PRIOR).read_bytes() != kept


def test_sample_from_the_mixture(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    common = ("sample", "-m", run, "--data-dir", data_dir, "-n", "6")
    outcome = vaecli(*common, "--prior", "gmm", "-o", "a.npy")
    assert outcome.code == 0
    assert vaecli(*common, "--prior", "gmm", "-o", "b.npy").code == 0
    assert vaecli(*common, "--prior", "gmm", "--seed", "9", "-o", "c.npy").code == 0
    assert vaecli(*common, "-o", "normal.npy").code == 0
    named = vaecli(*common, "--prior", "gmm", "--data", "mnist", "-o", "named.npy")
    assert "not kept" in named.err
    arrays = {path.stem: np.load(path) for path in Path().glob("*.npy")}
    assert (arrays["a"] == arrays["b"]).all()
    assert (arrays["a"] == arrays["named"]).all()
    for other in ("c", "normal"):
        assert (arrays["a"] != arrays[other]).any()


def test_it_is_fitted_to_training_images_alone(
    vaecli: Vaecli, run: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever images are judged; every image that is embedded is one of the training set's."""
    from vaecli.evaluation import latent_space

    seen = []
    embed = latent_space.embed

    def watched(runner: object, images: object, *rest: object) -> Embedding:
        seen.append(images.fingerprint() if hasattr(images, "fingerprint") else len(images))  # type: ignore[arg-type]
        return embed(runner, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(latent_space, "embed", watched)
    for split in ("test", "all"):
        (run / FITTED_PRIOR).unlink(missing_ok=True)
        done = vaecli(
            *("eval", "-m", run, "--data-dir", data_dir, "--prior", "gmm", "--split", split)
        )
        assert done.code == 0
    assert seen == [500, 500]  # the test split has 130, all have 630


def test_reconstruct_says_which_prior(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    common = ("-m", run, "--data-dir", data_dir)
    vaecli("sample", *common, "-n", "1", "-o", "one.png")
    plain, gmm = (
        json.loads(vaecli("reconstruct", "one.png", *common, "--json", "-f", *more).out)
        for more in ((), ("--prior", "gmm"))
    )
    assert (plain["prior"], gmm["prior"]) == ("normal", "gmm")
    assert plain["distortion"] == gmm["distortion"]
    assert plain["rate"] != gmm["rate"]
    refused = vaecli("reconstruct", "one.png", *common, "--prior", "gmm")
    assert refused.code == ExitCode.USAGE
    assert "Add --json" in refused.err


def test_a_loose_file_and_a_run_that_cannot_be_written_to(
    vaecli: Vaecli, run: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--data-dir", data_dir, "--prior", "gmm", "-n", "1", "-f")
    loose = vaecli("sample", "-m", run / "model.safetensors", "-d", "mnist", *common)
    assert loose.code == 0
    assert "not kept, so that it is fitted each time: --data names the images" in loose.err
    monkeypatch.setattr(
        "vaecli.system.files.atomic_write",
        lambda path, data: (_ for _ in ()).throw(OSError(30, os.strerror(30), str(path))),
    )
    monkeypatch.setattr("vaecli.cli.sample_output.write", lambda *_: None)
    refused = vaecli("sample", "-m", run, *common)
    assert refused.code == 0
    assert "not kept" in refused.err
    assert os.strerror(30) in refused.err
    shutil.rmtree(run / "state")
    assert "has no state/" in vaecli("sample", "-m", run, *common).err
    assert not (run / FITTED_PRIOR).exists()


Change = Callable[[Mixture, dict[str, object]], None]


def _components(mixture: Mixture, info: dict[str, object]) -> None:
    info["components"] = 10**9


def _text(mixture: Mixture, info: dict[str, object]) -> None:
    info["fitted"] = "5"


def _kind(mixture: Mixture, info: dict[str, object]) -> None:
    info["prior"] = "flow"


def _weights(mixture: Mixture, info: dict[str, object]) -> None:
    mixture.weights[0] = -1


def _sum(mixture: Mixture, info: dict[str, object]) -> None:
    mixture.weights[0] *= 2


def _factors(mixture: Mixture, info: dict[str, object]) -> None:
    mixture.factors[0, 0, 1] = 1


def _diagonal(mixture: Mixture, info: dict[str, object]) -> None:
    mixture.factors[0, 0, 0] = 0


def _nan(mixture: Mixture, info: dict[str, object]) -> None:
    mixture.means[0] = np.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_components, "1,000,000,000 components"),
        (_text, "fitted is no whole number"),
        (_kind, "no mixture"),
        (_weights, "not positive"),
        (_sum, "add up to 1"),
        (_factors, "lower triangular"),
        (_diagonal, "positive diagonal"),
        (_nan, "NaN"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_mixture_that_is_none_is_refused(
    run: Path, change: Change, words: str, vaecli: Vaecli, data_dir: Path
) -> None:
    loaded, own = load_model(str(run)), open_run(run)
    mixture = fit(spread(np.random.default_rng(0).random((50, 8), np.float32), 0.1), seed=0).mixture
    fitted_prior.write(own, loaded.weights, fitted_prior.FittedPrior(mixture, 50, 0))
    found = fitted_prior.read(own, loaded.weights)
    assert found is not None
    assert (found.mixture.factors == mixture.factors).all()
    tensors = {name: getattr(mixture, name) for name in ("weights", "means", "factors")}
    info: dict[str, object] = {"prior": "gmm", "model": weights.digest(loaded.weights)}
    info |= {"components": len(mixture.weights), "latents": 8, "fitted": 50, "held_out": 0}
    change(mixture, info)
    (run / FITTED_PRIOR).write_bytes(weights.encode(tensors, info))
    with pytest.raises(ModelError, match=words):
        fitted_prior.read(own, loaded.weights)
    outcome = vaecli("sample", "-m", run, "--prior", "gmm", "--data-dir", data_dir)
    assert outcome.code == ExitCode.MODEL
    assert "Remove the file" in outcome.err


def test_a_damaged_file_is_refused_and_another_run_clears_it(
    vaecli: Vaecli, run: Path, data_dir: Path
) -> None:
    common = ("-m", run, "--data-dir", data_dir)
    vaecli("sample", *common, "-n", "1", "--prior", "gmm")
    data = bytearray((run / FITTED_PRIOR).read_bytes())
    data[-1] ^= 1
    (run / FITTED_PRIOR).write_bytes(data)
    outcome = vaecli("eval", *common, "--prior", "gmm")
    assert outcome.code == ExitCode.MODEL
    assert "SHA-256" in outcome.err
    assert vaecli("eval", *common).code == 0
    open_run(run).clear()
    assert not (run / FITTED_PRIOR).exists()


def test_too_many_latents(vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--data", "mnist", "--hidden", "8", "--latent-dim", "257", "-e", "1")
    vaecli(*train, "--data-dir", data_dir, "-o", "wide", "-q")
    judged = ("eval", "-m", "wide", "--prior", "gmm", "--data-dir", data_dir)
    with monkeypatch.context() as patch:
        patch.setattr("vaecli.runs.fitted_prior.MAX_COVARIANCE", 256)
        outcome = vaecli(*judged)
    assert outcome.code == ExitCode.USAGE
    assert "257 latents, too many" in outcome.err
    assert vaecli(*judged).code == 0


def test_it_needs_neither_torch_nor_scikit_learn(run: Path, data_dir: Path) -> None:
    import subprocess

    code = (
        "import sys\nfrom vaecli.cli import app\n"
        f"assert app.run(['sample', '-m', {str(run)!r}, '--prior', 'gmm', '-n', '2',"
        f" '--data-dir', {str(data_dir)!r}]) == 0\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "sklearn", "scipy", "matplotlib"}
    assert (run / FITTED_PRIOR).is_file()


def test_python_samples_from_the_mixture(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    """The same pictures as those of the command, from the mixture kept or fitted again."""
    from vaecli.data.pixels import to_uint8

    common = ("--data-dir", data_dir, "-n", "6")
    for prior in ("gmm", "normal"):
        assert (
            vaecli("sample", "-m", run, *common, "--prior", prior, "-o", f"{prior}.npy").code == 0
        )
    (run / FITTED_PRIOR).unlink()
    options: dict[str, Any] = {"data_dir": data_dir, "download": False}
    model, names = package.load(run, device="cpu"), ("gmm", "gmm", "normal")
    for prior in names:
        found = model.sample(6, prior=prior, **options)  # type: ignore[arg-type]
        difference = to_uint8(found.numpy()).astype(int) - np.load(f"{prior}.npy")
        assert abs(difference).max() <= 1, prior
        assert (run / FITTED_PRIOR).is_file()
    loose = package.load(run / "model.safetensors", device="cpu")
    found = loose.sample(6, prior="gmm", data="mnist", seed=0, **options)
    assert abs(to_uint8(found.numpy()).astype(int) - np.load("gmm.npy")).max() <= 1
    with pytest.raises(UsageError, match="data"):
        loose.sample(6, prior="gmm", **options)
    with pytest.raises(UsageError, match="data names what gmm"):
        model.sample(6, data="mnist")
    with pytest.raises(UsageError, match="not one of normal, gmm"):
        model.sample(6, prior="GMM")  # type: ignore[arg-type]


def test_python_and_several_models_know_the_mixture(
    vaecli: Vaecli, run: Path, data_dir: Path
) -> None:
    model = package.load(run, device="cpu")
    found = model.evaluate(prior="gmm", data_dir=data_dir, download=False)
    assert (run / FITTED_PRIOR).is_file()
    assert found.prior == "gmm"
    assert found.losses_normal is not None
    columns = model.score(prior="gmm", data_dir=data_dir, download=False)
    assert set(columns["prior"]) == {"gmm"}
    assert columns["loss_normal"].mean() == pytest.approx(float(found.losses_normal.mean()))
    both = vaecli("eval", "-m", run, "-m", run, "--prior", "gmm", "--json", "--data-dir", data_dir)
    values = json.loads(both.out)["models"]
    assert [value["prior"] for value in values] == ["gmm", "gmm"]
    assert values[0]["loss"] == pytest.approx(found.loss)
    assert values[0]["loss_normal"] == pytest.approx(float(found.losses_normal.mean()))
