"""Priors learned with the model: density, draws, training, and every command that asks them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import vaecli as package
from browser import chromium, needs_chromium
from conftest import TRAIN, Vaecli
from vaecli.cli import app
from vaecli.config import LearnedPrior, ModelConfig, TrainConfig
from vaecli.data.dataset import Images
from vaecli.errors import ExitCode
from vaecli.evaluation import latent_space
from vaecli.evaluation.evaluate import evaluate
from vaecli.export import html, parts
from vaecli.model import network, numpy_learned_prior, numpy_prior
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.prior import DiagonalMixture, Flow, log_gain
from vaecli.model.vae import VAE, TorchRunner, build
from vaecli.runs import weights
from vaecli.training.backpropagation import covers
from vaecli.training.objective import objective

KINDS: tuple[LearnedPrior, ...] = ("mixture", "flow")


def config(kind: LearnedPrior, latents: int = 2) -> ModelConfig:
    return ModelConfig(image_shape=(1, 4, 4), hidden=(6,), latent_dim=latents, prior=kind)


def lively(kind: LearnedPrior, latents: int = 2, size: float = 0.25) -> VAE:
    """A model whose prior is far from its start."""
    model = build(config(kind, latents), seed=0)
    size *= 0.2 if kind == "flow" else 1  # six couplings in a row move it far
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def numpy_of(model: VAE) -> numpy_prior.Prior:
    return numpy_learned_prior.of(model.config, model.weights())


@pytest.mark.parametrize("kind", KINDS)
def test_it_integrates_to_one_in_both_interpreters(kind: LearnedPrior) -> None:
    model = lively(kind)
    axis = np.linspace(-16, 16, 321)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_probs = numpy_of(model).log_prob(points)
    prior = model.double().prior
    assert prior is not None
    with torch.no_grad():
        in_torch = torch.cat(
            [prior(part) for part in torch.from_numpy(points).split(10_000)]
        ).numpy()
    cell = (axis[1] - axis[0]) ** 2
    assert np.exp(in_torch).sum() * cell == pytest.approx(1, abs=2e-3)
    assert np.exp(log_probs).sum() * cell == pytest.approx(1, abs=2e-3)
    # float64 beside the float32 weights: the same numbers
    np.testing.assert_allclose(log_probs, in_torch, rtol=1e-5, atol=1e-4)
    assert np.abs(log_probs - numpy_prior.Normal(2).log_prob(points)).max() > 1


def test_the_mixture_is_that_of_torch() -> None:
    model = lively("mixture", 3).double()
    assert isinstance(model.prior, DiagonalMixture)
    prior = model.prior
    components = Independent(Normal(prior.means, prior.log_scales.exp()), 1)
    reference = MixtureSameFamily(Categorical(logits=prior.logits), components)
    points = torch.randn(50, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(prior(points), reference.log_prob(points))


def test_the_jacobian_of_the_flow_is_that_of_autograd() -> None:
    model = lively("flow", 5).double()
    assert isinstance(model.prior, Flow)
    flow, noise = model.prior, torch.randn(5, dtype=torch.float64)

    def latents(e: torch.Tensor) -> torch.Tensor:
        assert isinstance(flow, Flow)
        return flow.latents(e[None])[0]

    jacobian = torch.autograd.functional.jacobian(latents, noise)
    assert isinstance(jacobian, torch.Tensor)
    normal = Normal(0.0, 1.0).log_prob(noise).sum()
    density = flow(latents(noise)[None])[0]
    torch.testing.assert_close(density, normal - torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latents", [2, 5])
def test_draws_have_its_density(kind: LearnedPrior, latents: int) -> None:
    """By importance: the mean of N(z) / p(z) over draws z of p is 1; and by its moments."""
    model = lively(kind, latents, size=0.1)
    prior = numpy_of(model)
    draws = prior.draw(40_000, seed=1)
    ratios = np.exp(numpy_prior.Normal(latents).log_prob(draws) - prior.log_prob(draws))
    assert ratios.mean() == pytest.approx(1, abs=5 * ratios.std() / 200)
    mean, std = prior.moments
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06 * std.max())
    np.testing.assert_allclose(draws.std(0), std, rtol=0.06)
    assert (prior.draw(10, seed=1) == draws[:10]).all()
    assert (prior.draw(10, seed=2) != draws[:10]).any()
    cold = prior.draw(2_000, seed=1, temperature=0.3)
    assert prior.log_prob(cold).mean() > prior.log_prob(draws).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_latents_are_each_other_s_inverse(kind: LearnedPrior) -> None:
    prior = numpy_of(lively(kind, 5, size=0.1))
    draws = prior.draw(500, seed=0)
    noise = prior.to_noise(draws)
    np.testing.assert_allclose(prior.from_noise(noise), draws, atol=1e-4)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.2)
    ends = draws[0], draws[1]
    walk = latent_space.interpolate(*ends, 5, "spherical", prior)
    np.testing.assert_allclose(walk[[0, -1]], ends, atol=1e-4)
    between = prior.to_noise(walk)
    lengths, first, last = (np.linalg.norm(part, axis=-1) for part in (between, noise[0], noise[1]))
    assert (lengths >= min(first, last) - 0.01).all()  # a straight line would be shorter


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_is_that_of_its_formula(kind: LearnedPrior) -> None:
    """log p(x|z) + beta (log p(z) - log q(z|x)) at each draw, with the closed form for one draw."""
    model = lively(kind, 3).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    assert model.prior is not None
    mean, log_variance = model.encoder(images)
    q = Normal(mean[:, None], torch.exp(0.5 * log_variance)[:, None])
    z = q.mean + q.stddev * noise
    logits = model.decoder(z.flatten(0, 1)).view(4, 6, 1, 4, 4)
    fit = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    likelihood = fit.log_prob(images[:, None]).sum((2, 3, 4))
    ratio = model.prior(z) - q.log_prob(z).sum(2)
    for beta in (1.0, 0.3):
        expected = -(torch.logsumexp(likelihood + beta * ratio, 1) - np.log(6))
        for gradient in ("iwae", "dreg"):
            found = objective(model, images, noise, beta, 0.0, gradient)
            torch.testing.assert_close(found.objective, expected)
        one = objective(model, images, noise[:, 0], beta, 0.0)
        closed = torch.distributions.kl_divergence(
            Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0)
        ).sum(1)
        rate = closed - log_gain(model.prior, z[:, 0])
        torch.testing.assert_close(one.rate, rate)
        torch.testing.assert_close(one.objective, -likelihood[:, 0] + beta * rate)
        torch.testing.assert_close(one.distortion, -likelihood[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_are_those_of_the_network(kind: LearnedPrior) -> None:
    for latents in (2, 7):
        model = build(config(kind, latents), seed=0)
        found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert network.of(model.config).shapes() == found
        assert network.count_parameters(model.config) == sum(p.numel() for p in model.parameters())
        same = build(replace(model.config, prior="normal"), seed=0).state_dict()
        assert all(torch.equal(same[name], model.state_dict()[name]) for name in same)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_under_it(kind: LearnedPrior) -> None:
    model = lively(kind, 3)
    assert model.prior is not None
    images = Images(np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), np.uint8))
    result = evaluate(model, images, seed=0, importance_samples=2000)
    assert result.prior == kind
    assert result.losses_normal is None
    assert result.likelihoods is not None
    assert result.likelihoods.nll_normal is None
    again = torch.stack([evaluate(model, images, seed=s).losses for s in range(40)])
    assert result.nll < float(again.mean())
    found = [evaluate(model, images, seed=s, importance_samples=1).likelihoods for s in range(40)]
    one = torch.stack([each.nll for each in found if each is not None])
    gap = (again - one).mean(0)
    assert abs(float(gap.mean())) < 5 * float((again - one).std()) / 40  # 1,600 differences
    dimensions = latent_space.dimensions(
        latent_space.embed(TorchRunner(model), images), numpy_of(model)
    )
    np.testing.assert_allclose(result.kl_per_dim, dimensions.kl, rtol=1e-4)
    assert result.active_units == sum(dimensions.active)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Path]:
    """A finished run of one epoch with each learned prior."""
    folder = tmp_path_factory.mktemp("learned")
    for kind in KINDS:
        arguments = [*TRAIN, "--epochs", "1", "--prior", kind, "--data-dir", str(data_dir)]
        assert app.run([*arguments, "-o", str(folder / kind), "-q"]) == 0
    return {kind: folder / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_asks_it(
    vaecli: Vaecli, runs: dict[str, Path], kind: str, data_dir: Path
) -> None:
    run, data = runs[kind], ("--data-dir", data_dir)
    value = json.loads(vaecli("eval", "-m", run, "--json", *data).out)
    rows = (run / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert value["loss"] == pytest.approx(float(last["test_loss"]), abs=1e-3)
    assert value["prior"] == kind
    assert "loss_normal" not in value
    assert "Monte Carlo" in value["protocol"]
    card = (run / "README.md").read_text()
    assert f"prior learned {kind}" in card
    assert "Monte Carlo" in card
    for number, words in enumerate(
        (
            ("-n", 3),
            ("-n", 3, "--temperature", 0),
            ("--traverse",),
            ("--manifold", "--steps", 3),
            ("--interpolate", 0, 1),
            ("--traverse", "--around", 2),
        )
    ):
        done = vaecli("sample", "-m", run, *words, "-o", f"{number}.png", *data)
        assert done.code == 0, (words, done.err)
    scored = vaecli("reconstruct", "0.png", "-m", run, "--json")
    assert json.loads(scored.out)["prior"] == kind
    model = package.load(run, device="cpu")
    expected = numpy_of(model.vae).draw(4, seed=0)
    torch.testing.assert_close(model.sample(4), model.decode(expected))
    for command in (("sample",), ("eval",), ("reconstruct", "0.png", "--json")):
        for name in ("gmm", "normal"):
            refused = vaecli(*command, "-m", run, "--prior", name)
            assert refused.code == ExitCode.USAGE
            assert "learned a prior of its own" in refused.err


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_continued_and_started_from(
    vaecli: Vaecli, runs: dict[str, Path], kind: str, data_dir: Path
) -> None:
    """Stopped halfway and continued it has the bytes of the run that was not."""
    common = (*TRAIN, "--prior", kind, "--data-dir", data_dir, "--schedule", "constant", "-q")
    assert vaecli(*common, "--epochs", 2, "-o", "whole").code == 0
    assert vaecli(*common, "--epochs", 1, "-o", "grown").code == 0
    assert (
        vaecli("train", "--resume", "grown", "--epochs", 2, "--data-dir", data_dir, "-q").code == 0
    )
    same = [Path(name, "model.safetensors").read_bytes() for name in ("whole", "grown")]
    assert same[0] == same[1]
    started = vaecli(*common, "--epochs", 1, "--init-from", runs[kind], "-o", "from")
    assert started.code == 0, started.err
    refused = vaecli(
        *TRAIN,
        "--epochs",
        1,
        "--prior",
        "normal",
        "--init-from",
        runs[kind],
        "--data-dir",
        data_dir,
        "-o",
        "other",
    )
    assert refused.code == ExitCode.MODEL
    assert f"the weights have {kind}, not normal" in refused.err


def test_what_contradicts_it(vaecli: Vaecli, data_dir: Path) -> None:
    for words, sentence in (
        (("--prior", "flow", "--arch", "grid"), "contradicts --arch grid"),
        (("--prior", "mixture", "--free-bits", 0.1), "contradicts --prior mixture"),
        (("--prior", "flow", "--latent-dim", 1), "at least 2 latents"),
        (("--prior", "flow", "--condition", "labels"), "labels contradicts --prior flow"),
        (("--gradient", "dreg"), "needs --importance-samples above 1"),
        (("--gradient", "dreg", "--importance-samples", 2, "--arch", "grid"), "dreg contradicts"),
    ):
        outcome = vaecli("train", "--data", "mnist", "--data-dir", data_dir, "--dry-run", *words)
        assert outcome.code == ExitCode.USAGE, words
        assert sentence in outcome.err


@pytest.mark.parametrize(
    "words", [("--prior", "flow"), ("--gradient", "dreg", "--importance-samples", 2)]
)
def test_what_contradicts_the_architecture_of_colour_images(
    vaecli: Vaecli, words: tuple[object, ...]
) -> None:
    images = np.random.default_rng(0).integers(256, size=(20, 3, 16, 16), dtype=np.uint8)
    np.save("colour.npy", images)
    outcome = vaecli("train", "--data", "colour.npy", "-o", "run", *words)
    assert outcome.code == ExitCode.USAGE
    assert "without --arch, these images take grid; --" in outcome.err
    assert "add --arch conv or --arch mlp" in outcome.err
    assert not Path("run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_prior_are_refused(
    vaecli: Vaecli, runs: dict[str, Path], kind: LearnedPrior, data_dir: Path
) -> None:
    model, tensors = weights.read_model(runs[kind] / "model.safetensors")
    assert model.prior == kind
    loose = weights.encode_model(model, tensors)
    assert loose == (runs[kind] / "model.safetensors").read_bytes()
    others = {"mixture": "flow", "flow": "mixture"}
    for changed in (others[kind], "normal"):
        lying = replace(model, prior=changed)  # type: ignore[arg-type]
        Path("lying.safetensors").write_bytes(weights.encode_model(lying, tensors))
        outcome = vaecli("sample", "-m", "lying.safetensors", "-n", 1)
        assert outcome.code == ExitCode.MODEL
        assert "do not fit its configuration" in outcome.err
    huge = {**tensors}
    for name in huge:  # finite numbers, whatever they are: a picture, or a documented refusal
        if name.startswith("prior."):
            huge[name] = np.full_like(huge[name], 3e38)
    Path("huge.safetensors").write_bytes(weights.encode_model(model, huge))
    for words in (("-n", 1), ("--temperature", 0), ("--traverse", "-d", "mnist")):
        done = vaecli("sample", "-m", "huge.safetensors", *words, "-f", "--data-dir", data_dir)
        assert done.code == 0, (words, done.err)


@pytest.mark.parametrize("kind", KINDS)
def test_exported_priors_draw_as_torch_does(
    vaecli: Vaecli, runs: dict[str, Path], kind: str
) -> None:
    done = vaecli("export", "-m", runs[kind], "--format", "pt2", "-o", "out", "--json")
    assert done.code == 0, done.err
    files = {row["part"]: row for row in json.loads(done.out)["files"]}
    assert set(files) == {"encoder", "decoder", "prior"}
    assert files["prior"]["difference"] < 1e-4
    module = torch.export.load("out/prior.pt2").module()
    model = package.load(runs[kind], device="cpu").vae
    part = parts.split(model)[2]
    draws = numpy_of(model).draw(20_000, seed=0)
    found = module(part.example(20_000)).detach().numpy()
    std = draws.std(0)
    np.testing.assert_allclose(found.mean(0), draws.mean(0), atol=0.05 * float(std.max()))
    np.testing.assert_allclose(found.std(0), std, rtol=0.05)


def test_the_prior_as_onnx_and_none_where_none_was_learned(
    vaecli: Vaecli, runs: dict[str, Path], trained: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: vaecli[onnx]")
    pytest.importorskip("onnxscript", reason="needs onnxscript: vaecli[onnx]")
    for kind in KINDS:
        done = vaecli("export", "-m", runs[kind], "--part", "prior", "-o", kind)
        assert done.code == 0, done.err
        assert Path(kind, "prior.onnx").is_file()
    refused = vaecli("export", "-m", trained, "--part", "prior", "-o", "none")
    assert refused.code == ExitCode.USAGE
    assert not Path("none").exists()


@needs_chromium
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_draws_from_it(
    kind: LearnedPrior, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A thousand draws of the button have the prior's mean and spread, and its density."""
    model = lively(kind, 5, size=0.1)
    folder = tmp_path_factory.mktemp("c")  # short: the path of Chromium's socket is limited
    path = folder / "page.html"
    path.write_text(html.render(model, title=kind).text)
    with chromium(folder / "profile") as browser:
        browser.size(1000, 800)
        browser.open(path)
        drawn = np.array(
            browser.run("Array.from({ length: 1000 }, () => [...drawLatent()])"), np.float32
        )
        ends = browser.run(
            "(() => { const r = document.querySelector('#z3'); return [+r.min, +r.max] })()"
        )
    prior = numpy_of(model)
    expected = prior.draw(20_000, seed=0)
    std = expected.std(0)
    np.testing.assert_allclose(
        drawn.mean(0), expected.mean(0), atol=5 * float(std.max()) / 1000**0.5
    )
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.15)
    found, wanted = prior.log_prob(drawn), prior.log_prob(expected)
    assert found.mean() == pytest.approx(wanted.mean(), abs=5 * wanted.std() / 1000**0.5)
    mean, scale = prior.moments
    np.testing.assert_allclose(ends, [mean[3] - 4 * scale[3], mean[3] + 4 * scale[3]], rtol=1e-3)


def test_numpy_and_torch_runners_have_the_same_prior(runs: dict[str, Path], tmp_path: Path) -> None:
    for kind in KINDS:
        shutil.copytree(runs[kind], tmp_path / kind)
        model, tensors = weights.read_model(tmp_path / kind / "model.safetensors")
        one = NumpyVAE(model, tensors).prior
        other = TorchRunner(package.load(tmp_path / kind, device="cpu").vae).prior
        assert (one.draw(20, seed=3) == other.draw(20, seed=3)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_that_is_written_out_leaves_it_alone(kind: LearnedPrior) -> None:
    """It knows the closed form of the rate only."""
    cpu, plain = torch.device("cpu"), TrainConfig()
    assert covers(build(replace(config(kind), prior="normal"), seed=0), plain, cpu)
    assert not covers(build(config(kind), seed=0), plain, cpu)
