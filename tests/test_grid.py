"""`--arch grid`: a ladder of latents, one model to torch, numpy, the bounds and the exports."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Vaecli
from vaecli import philox
from vaecli.config import Likelihood, ModelConfig
from vaecli.data.dataset import Images
from vaecli.errors import ExitCode
from vaecli.evaluation import generation, latent_space
from vaecli.evaluation.evaluate import evaluate
from vaecli.evaluation.likelihood_estimate import estimate
from vaecli.model import network, vae
from vaecli.model.bounds import elbo_terms
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import VAE, TorchRunner, reparameterize
from vaecli.runs import weights
from vaecli.training.objective import objective
from vaecli.training.optimizer import MuonAdam

SHAPES = [(1, 16, 16), (3, 17, 23), (1, 28, 28), (3, 16, 40)]


def a_model(
    shape: tuple[int, int, int] = (3, 17, 23), likelihood: Likelihood = "logistic-mixture"
) -> VAE:
    """A small grid whose weights are far from their start, so that every layer matters."""
    config = ModelConfig(
        image_shape=shape, arch="grid", hidden=(8,), latent_dim=3, likelihood=likelihood
    )
    model = vae.build(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pixels(shape: tuple[int, int, int], count: int = 3) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic", "logistic-mixture"])
def test_any_size_has_the_shapes_that_the_network_says(
    shape: tuple[int, int, int], likelihood: Likelihood
) -> None:
    model = a_model(shape, likelihood)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == network.of(model.config).shapes()
    length = model.config.latents
    images, noise = torch.rand(2, *shape), torch.randn(2, 3, length)
    parameters, mean, log_variance = model(images, noise)
    assert parameters.shape == (2, 3, *model.config.output_shape)
    assert mean.shape == log_variance.shape == noise.shape
    assert model.mean_image(noise[:, 0]).shape == images.shape


def test_the_latents_of_every_position_matter() -> None:
    model = a_model((1, 16, 16), "bernoulli")
    centre = model.decoder(torch.zeros(1, model.config.latents))
    moved = model.decoder(torch.eye(model.config.latents))
    assert ((moved - centre).abs().flatten(1).amax(1) > 1e-6).all()


def test_the_posterior_sees_what_was_drawn_above_it() -> None:
    model = a_model()
    images = torch.rand(2, 3, 17, 23)
    mean, _ = model.encode(images)
    other, _ = model.encode(images, torch.randn(2, model.config.latents))
    top = 3 * model.config.levels[-1][0] * model.config.levels[-1][1]
    assert torch.equal(mean[:, :top], other[:, :top])
    assert not torch.allclose(mean[:, top:], other[:, top:], atol=1e-3)


def test_the_decoder_of_drawn_latents_is_the_forward_pass() -> None:
    model = a_model()
    images, noise = torch.rand(2, 3, 17, 23), torch.randn(2, model.config.latents)
    parameters, mean, log_variance = model(images, noise)
    latents = reparameterize(mean, log_variance, noise)
    torch.testing.assert_close(model.decoder(latents), parameters, rtol=1e-5, atol=1e-5)


def test_several_draws_are_single_draws() -> None:
    model = a_model().double()
    images = torch.rand(2, 3, 17, 23, dtype=torch.float64)
    noise = torch.randn(2, 4, model.config.latents, dtype=torch.float64)
    together = model(images, noise)
    for draw in range(4):
        alone = model(images, noise[:, draw])
        torch.testing.assert_close([part[:, draw] for part in together], [*alone])


def test_an_image_alone_is_as_in_a_batch() -> None:
    model = a_model().double()
    images = torch.rand(5, 3, 17, 23, dtype=torch.float64)
    noise = torch.randn(5, model.config.latents, dtype=torch.float64)
    together = model(images, noise)
    for place in range(5):
        rows = slice(place, place + 1)
        alone = model(images[rows], noise[rows])
        torch.testing.assert_close([part[rows] for part in together], [*alone])


def test_the_rate_is_the_mean_of_log_q_over_p() -> None:
    """The closed form, averaged over draws, against densities that torch.distributions computes."""
    model = a_model((1, 16, 16), "bernoulli").double()
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64).expand(4000, -1, -1, -1)
    noise = torch.randn(4000, model.config.latents, dtype=torch.float64)
    with torch.no_grad():
        _, mean, log_variance = model(image, noise)
        latents = reparameterize(mean, log_variance, noise)
        q = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
        ratio = (q.log_prob(latents) - torch.distributions.Normal(0, 1).log_prob(latents)).sum(1)
        rate = kl_to_prior(mean, log_variance).sum(1)
    error = (ratio - rate).std() / 4000**0.5
    assert abs(ratio.mean() - rate.mean()) < 4 * error


def test_a_bound_is_a_bound() -> None:
    """The loss is above the importance-weighted estimate, which falls as samples are added."""
    model = a_model((1, 16, 16), "bernoulli")
    images = Images(pixels((1, 16, 16), 60))
    found = evaluate(model, images, seed=0, importance_samples=100)
    few = estimate(model, images.pixels, 5, 0).nll.mean()
    assert found.nll < few < found.loss
    again = evaluate(model, images, seed=0, batch_size=7, importance_samples=100)
    assert again.loss == pytest.approx(found.loss, rel=1e-6)
    assert again.nll == pytest.approx(found.nll, rel=1e-6)


def test_the_objective_is_the_loss_at_one_draw() -> None:
    model = a_model()
    images = torch.rand(2, 3, 17, 23).mul(255).round() / 255
    noise = torch.randn(2, model.config.latents)
    found = objective(model, images, noise, 1.0, 0.0)
    wanted = elbo_terms(images, *model(images, noise), *model.likelihood)  # type: ignore[call-arg]
    torch.testing.assert_close(found.objective, wanted.loss)
    several = objective(model, images, noise.unsqueeze(1), 1.0, 0.0)
    assert several.rate.shape == (2,)
    # with one sample it is the same bound, with another estimate of the rate
    assert several.objective.shape == (2,)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic-mixture"])
def test_numpy_computes_what_torch_computes(
    shape: tuple[int, int, int], likelihood: Likelihood
) -> None:
    model = a_model(shape, likelihood)
    in_numpy, runner = NumpyVAE(model.config, model.weights()), TorchRunner(model)
    images = pixels(shape).astype("f4") / 255
    noise = np.random.default_rng(0).normal(size=(3, model.config.latents)).astype("f4")
    for draws in (None, noise):
        for ours, theirs in zip(
            in_numpy.encode(images, draws), runner.encode(images, draws), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(in_numpy.decode(noise), runner.decode(noise), rtol=1e-3, atol=2e-3)
    for score, wanted in zip(
        generation.score(in_numpy, pixels(shape), noise),
        generation.score(runner, pixels(shape), noise),
        strict=True,
    ):
        assert score["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


def test_a_score_is_the_loss_at_its_draw() -> None:
    model, images = a_model(), pixels((3, 17, 23))
    noise = np.random.default_rng(0).normal(size=(3, model.config.latents)).astype("f4")
    x = torch.from_numpy(images) / 255
    wanted = elbo_terms(  # type: ignore[call-arg]
        x, *model(x, torch.from_numpy(noise)), *model.likelihood
    ).loss
    scores = generation.score(TorchRunner(model), images, noise)
    assert [score["loss"] for score in scores] == pytest.approx(wanted.tolist(), rel=1e-4)


def test_small_or_thin_images_are_refused() -> None:
    config = ModelConfig(image_shape=(3, 15, 40), arch="grid")
    assert [field for field, _ in config.problems()] == ["arch"]
    config = ModelConfig(image_shape=(3, 32, 32), arch="grid", hidden=(8, 8))
    assert [field for field, _ in config.problems()] == ["hidden"]


def expect_groups(found: dict[str, Any], rows: str) -> None:
    """Each level of the latents of 17x20 images, against the embeddings and the KL themselves."""
    table = csv.DictReader(io.StringIO(rows))
    latents = np.array([[float(row[name]) for name in row if name[0] == "z"] for row in table])
    active, kl = latents.var(0) > 0.01, found["kl_per_dim"]
    places = {(3, 3): slice(0, 16 * 9), (5, 5): slice(16 * 9, 16 * (9 + 25))}
    assert [(group["height"], group["width"]) for group in found["groups"]] == [*places]
    for group, place in zip(found["groups"], places.values(), strict=True):
        assert group["latents"] == place.stop - place.start
        assert group["active_units"] == active[place].sum()
        assert group["rate"] == pytest.approx(sum(kl[place]))
    assert active.sum() == found["active_units"]


def test_more_epochs_are_refused_for_the_schedule_that_was_planned(vaecli: Vaecli) -> None:
    """Not for the weight of the rate, which follows from the epochs and was never given."""
    Path("photos").mkdir()
    for number, image in enumerate(pixels((3, 16, 16), 12)):
        Image.fromarray(image.transpose(1, 2, 0)).save(f"photos/{number}.png")
    asked = ("train", "--data", "photos", "--hidden", "8", "--data-dir", "cache", "-o", "run")
    assert vaecli(*asked, "--epochs", "1").code == 0
    refused = vaecli(*asked, "--epochs", "3")
    assert refused.code == ExitCode.USAGE
    assert "only --schedule constant can be extended" in refused.err


def test_one_run_is_a_model_to_every_command(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, continued to the same weights, and seen by each command that takes a model."""
    Path("photos").mkdir()
    for number, image in enumerate(pixels((3, 17, 20), 12)):
        Image.fromarray(image.transpose(1, 2, 0)).save(f"photos/{number}.png")
    asked = ("--data", "photos", "--hidden", "8", "--data-dir", "cache", "--schedule", "constant")
    whole = vaecli("train", *asked, "--epochs", "3", "-o", "whole")
    assert whole.code == 0, whole.err
    assert vaecli("train", *asked, "--epochs", "1", "-o", "run").code == 0
    assert vaecli("train", "--resume", "run", "--epochs", "3", "--data-dir", "cache").code == 0
    first, second = (weights.read_model(Path(run, "model.safetensors")) for run in ("whole", "run"))
    assert first.config == second.config
    assert first.config.arch == "grid"
    assert weights.digest(first.tensors) == weights.digest(second.tensors)
    for command in (
        ("eval", "--importance-samples", "3", "--json"),
        ("eval", "--per-image", "rows.csv", "--latents", "--quiet"),
        ("reconstruct", "photos/0.png", "-o", "one.png"),
        ("reconstruct", "--sample", "photos/0.png", "-o", "two.png"),
        ("sample", "-n", "4", "-o", "samples.png"),
        ("sample", "--interpolate", "0", "1", "-o", "between.png"),
        ("sample", "--traverse", "-o", "moved.png"),
        ("export", "--format", "pt2", "-o", "pt2"),
        ("export", "--format", "html", "-o", "page.html"),
        ("export", "--format", "safetensors", "--half", "-o", "half.safetensors"),
    ):
        outcome = vaecli(
            *command, "-m", "run", *(("--data-dir", "cache") if "eval" in command else ())
        )
        assert outcome.code == 0, (command, outcome.err)
    found = json.loads(vaecli("eval", "-m", "run", "--json", "--data-dir", "cache").out)
    assert len(found["kl_per_dim"]) == first.config.latents
    scores = ("eval", "--per-image", "-", "--latents", "-m", "run", "--data-dir", "cache")
    expect_groups(found, vaecli(*scores).out)
    cached = ("-m", "run", "--data-dir", "cache")
    judged = vaecli("eval", "--prior", "gmm", "--json", *cached)
    assert "prior: one Gaussian fitted to" in judged.err
    assert json.loads(judged.out)["loss_normal"] == found["loss"]
    outcome = vaecli("sample", "--prior", "gmm", "-n", "4", "-o", "gaussian.png", *cached)
    assert outcome.code == 0, outcome.err
    assert "know nothing of each other" not in outcome.err
    for prior, advised in (((), True), (("--prior", "normal"), False)):
        drawn = vaecli("sample", "-n", "1", "-o", "one.png", "-f", "-m", "run", *prior)
        assert ("know nothing of each other; vaecli sample --prior gmm" in drawn.err) == advised
    assert Path("gaussian.png").read_bytes() != Path("samples.png").read_bytes()
    monkeypatch.setattr("vaecli.runs.fitted_prior.MAX_COVARIANCE", 100)
    assert "--prior gmm" not in vaecli("sample", "-n", "1", "-o", "2.png", "-m", "run").err
    refused = vaecli("sample", "--prior", "gmm", "-o", "mixture.png", *cached)
    assert refused.code == ExitCode.USAGE
    assert "too many for a Gaussian with a full covariance; it can have 100" in refused.err


def test_the_latents_of_a_grid_that_a_prior_is_fitted_to_are_draws() -> None:
    """Each group given those drawn above it, not given their means."""
    model, images = a_model(), Images(pixels((3, 17, 23), 5))
    runner = TorchRunner(model)
    found = latent_space.embed(runner, images, draw_seed=3)
    noise = philox.normal(model.config.latents, 0, 5, seed=3, purpose="aggregate-posterior")
    wanted = runner.encode(pixels((3, 17, 23), 5).astype("f4") / 255, noise)
    np.testing.assert_allclose(found.mean, wanted[0], rtol=1e-5, atol=1e-5)
    assert not np.allclose(found.mean, latent_space.embed(runner, images).mean, atol=1e-3)


def test_muon_moves_every_direction_of_a_kernel_alike() -> None:
    kernel = torch.nn.Parameter(torch.zeros(16, 8, 3, 3))
    bias = torch.nn.Parameter(torch.zeros(16))
    optimizer = MuonAdam({"kernel": kernel, "bias": bias}, (0.9, 0.99))
    optimizer.set_learning_rate(0.02)
    # a gradient whose directions differ a hundredfold
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(16, 72, generator=generator), full_matrices=False)
    kernel.grad = (left * torch.logspace(0, -1, 16) @ right).view_as(kernel)
    bias.grad = torch.ones(16)
    optimizer.step()
    sizes = torch.linalg.svdvals(kernel.detach().flatten(1)) / 0.02
    assert sizes.min() > 0.5
    assert sizes.max() < 1.3
    assert ((kernel.detach() * kernel.grad).sum() < 0).item()
    torch.testing.assert_close(bias.detach(), torch.full((16,), -0.003))
    assert {name for name, _ in optimizer.state()} == {
        "step.bias",
        "exp_avg.bias",
        "exp_avg_sq.bias",
        "momentum.kernel",
    }
