"""The prior of `--prior flow-matching`: what it learns, and the file in which a run keeps it."""

from __future__ import annotations

import base64
import copy
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import vaecli as package
from conftest import Vaecli
from vaecli import philox
from vaecli.config import ModelConfig
from vaecli.data.pixels import to_uint8
from vaecli.errors import DivergedError, ExitCode, ModelError, UsageError
from vaecli.evaluation.latent_space import Embedding
from vaecli.export.drawn import from_kept
from vaecli.model import flow_matching as network
from vaecli.model.flow_matching import FlowMatching, VelocityField, groups, integrate
from vaecli.runs import flow_prior, weights
from vaecli.runs.directory import FLOW_PRIOR, open_run
from vaecli.runs.load import load_model
from vaecli.training import flow_matching
from vaecli.training.flow_matching import fit, squared_error

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow network, and few steps."""
    monkeypatch.setattr(network, "WIDTH", 32)
    monkeypatch.setattr(flow_matching, "MOST_STEPS", 300)


def gaussian_velocity(mean: float, std: float) -> object:
    """E[z - e | z_t] for z from N(mean, std^2) and e from N(0, 1), which are joint normal.

    Cov(z - e, z_t) / Var(z_t) = (t std^2 - (1 - t)) / (t^2 std^2 + (1 - t)^2).
    """

    def velocity(point: Tensor, time: Tensor) -> Tensor:
        slope = (time * std**2 - (1 - time)) / (time**2 * std**2 + (1 - time) ** 2)
        return mean + slope * (point - time * mean)

    return velocity


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (3.0, 1.0), (-1.0, 0.2)])
def test_the_velocity_of_a_gaussian_carries_noise_to_it(mean: float, std: float) -> None:
    noise = torch.linspace(-3, 3, 7, dtype=torch.float64)
    ends = [integrate(gaussian_velocity(mean, std), noise, steps) for steps in (20, 40)]  # type: ignore[arg-type]
    gaps = [float((end - (mean + std * noise)).abs().max()) for end in ends]
    assert gaps[0] < 0.05 * std * 3
    assert gaps[1] < 0.4 * gaps[0] + 1e-9  # of second order


def test_the_error_is_that_of_the_line_between_noise_and_latents() -> None:
    def field(point: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
        seen.append((point, times))
        return torch.ones_like(point)

    seen: list[tuple[Tensor, Tensor]] = []
    latents, noise = torch.tensor([[3.0, 1.0]]), torch.tensor([[-1.0, 1.0]])
    error = squared_error(field, latents, noise, torch.tensor([0.25]), None)  # type: ignore[arg-type]
    assert seen[0][0].tolist() == [[0.0, 1.0]]
    assert float(error) == pytest.approx(((4 - 1) ** 2 + (0 - 1) ** 2) / 2)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (17, 33), (16, 200), (200, 16), (100, 37)])
def test_levels_of_any_size_meet_at_the_same_places(size: tuple[int, int]) -> None:
    """A value that is enlarged to the finest level and averaged again is itself."""
    config = ModelConfig(image_shape=(3, *size), arch="grid", latent_dim=2)
    field = VelocityField(groups(config), 0)
    assert sum(int(np.prod(shape)) for shape in field.shapes) == config.latents
    for shape, factor in zip(field.shapes, field.factors, strict=True):
        values = torch.randn(1, *shape, dtype=torch.float64)
        height, width = field.size
        enlarged = functional.interpolate(values, scale_factor=factor)[:, :, :height, :width]
        assert enlarged.shape[2:] == field.size
        back = functional.avg_pool2d(enlarged, factor, ceil_mode=True)
        torch.testing.assert_close(back, values, atol=1e-12, rtol=0)
    found = field(torch.randn(2, config.latents), torch.rand(2), None)
    assert found.shape == (2, config.latents)
    assert not found.any()  # it starts from nothing


def test_every_latent_hears_of_every_other() -> None:
    torch.manual_seed(0)
    field = VelocityField([(2, 2, 2), (2, 4, 4)], 0)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(1, 40, requires_grad=True)
    found = field(latents, torch.tensor([0.3]), None)
    for place in (0, 7, 8, 39):
        (slope,) = torch.autograd.grad(found[0, place], latents, retain_graph=True)
        assert (slope != 0).all()


def two_clusters(count: int) -> tuple[Embedding, NDArray[np.int64]]:
    """Posteriors near (5, 0) and near (5, 8): a place and a scale to be undone, and a gap."""
    labels = np.arange(count, dtype=np.int64) % 2
    mean = np.random.default_rng(0).normal(size=(count, 2), scale=0.3).astype(np.float32)
    mean += np.stack([np.full(count, 5.0), 8.0 * labels], 1).astype(np.float32)
    return Embedding(mean, np.full_like(mean, -4.0)), labels


VECTOR = ModelConfig(image_shape=(1, 28, 28), latent_dim=2)


@pytest.mark.usefixtures("small")
def test_draws_lie_where_the_latents_do() -> None:
    embedding, _ = two_clusters(1000)
    found = fit(embedding, None, VECTOR, seed=0, device=CPU)
    assert (found.fitted, found.held_out) == (900, 100)
    draws = found.prior.draw(2000, seed=0)
    near = [abs(draws[:, 1] - centre) < 1.5 for centre in (0, 8)]
    assert (near[0] | near[1]).mean() > 0.9
    assert 0.4 < near[0].mean() < 0.6
    for part in near:
        std = np.hypot(0.3, np.exp(-2))
        assert draws[part, 0].std() == pytest.approx(std, rel=0.25)
        assert draws[part, 1].std() < 2 * std  # some draws lie between the clusters
    assert draws[:, 0].mean() == pytest.approx(5, abs=0.1)
    np.testing.assert_allclose(found.prior.draw(3, seed=0), draws[:3], atol=1e-4)
    assert not np.allclose(found.prior.draw(3, seed=1), draws[:3])


@pytest.mark.usefixtures("small")
def test_draws_are_of_the_class_that_is_asked_for() -> None:
    embedding, labels = two_clusters(1000)
    classes = ModelConfig(
        image_shape=(1, 28, 28), latent_dim=2, classes=("low", "high"), class_counts=(500, 500)
    )
    prior = fit(embedding, labels, classes, seed=0, device=CPU).prior
    for place, centre in enumerate((0, 8)):
        draws = prior.draw(200, seed=0, labels=np.full(200, place, np.int64))
        assert (abs(draws[:, 1] - centre) < 1.5).mean() > 0.9


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_prior_and_leaves_torch_alone() -> None:
    embedding, _ = two_clusters(200)
    before = torch.random.get_rng_state()
    first, again, other = (
        fit(embedding, None, VECTOR, seed=seed, device=CPU).prior.draw(5, seed=0)
        for seed in (0, 0, 1)
    )
    assert (torch.random.get_rng_state() == before).all()
    assert (first == again).all()
    assert not (first == other).all()


def test_a_grid_is_fitted_to_latents_that_belong_together() -> None:
    """The mean of the finer level was encoded at one draw of the coarser, so that draw stays."""
    config = ModelConfig(image_shape=(1, 32, 32), arch="grid", latent_dim=1)
    generator = np.random.default_rng(0)
    mean = generator.normal(size=(50, config.latents)).astype(np.float32)
    posterior = Embedding(mean, np.full_like(mean, -1.0))
    noise = philox.normal(config.latents, 0, 50, seed=3, purpose="aggregate-posterior")
    found, std = flow_matching._redrawable(posterior, config, seed=3)
    np.testing.assert_allclose(found[:, :16], (mean + np.exp(-0.5) * noise)[:, :16], rtol=1e-5)
    assert not std[:, :16].any()
    assert (found[:, 16:] == mean[:, 16:]).all()
    np.testing.assert_allclose(std[:, 16:], np.exp(-0.5), rtol=1e-6)
    vector, spread = flow_matching._redrawable(posterior, VECTOR, seed=3)
    assert (vector == mean).all()
    assert spread.all()


@pytest.mark.parametrize("count", [1, 2, 9, 10])
@pytest.mark.usefixtures("small")
def test_few_images(count: int) -> None:
    embedding, _ = two_clusters(count)
    found = fit(embedding, None, VECTOR, seed=0, device=CPU)
    assert found.held_out == (count > 1)
    assert found.fitted == count - found.held_out
    assert np.isfinite(found.prior.draw(3, seed=0)).all()


@pytest.mark.usefixtures("small")
def test_what_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, log_variance = two_clusters(20)[0]
    wild = Embedding(mean, np.where(np.arange(20)[:, None] == 3, np.float32(200), log_variance))
    with pytest.raises(DivergedError, match="latents of the training images is not finite"):
        fit(wild, None, VECTOR, seed=0, device=CPU)
    monkeypatch.setattr(flow_matching._Judge, "error", lambda self, field: math.nan)
    with pytest.raises(DivergedError, match="error of the network is not finite"):
        fit(two_clusters(20)[0], None, VECTOR, seed=0, device=CPU)


def test_attention_does_not_keep_all_scores() -> None:
    """It is computed by a kernel that holds no (positions, positions) matrix."""
    heads = []

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads.extend([query, key, value])
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attention)
        network.Attention()(torch.randn(2, network.WIDTH, 3, 5), torch.randn(2, network.WIDTH))
    assert {each.shape for each in heads} == {(2, 4, 15, 32)}
    assert {each.stride(-1) for each in heads} == {1}  # or torch takes the kernel that does


@pytest.mark.parametrize("std", [0.05, 0.1, 0.3])
def test_narrow_latents_keep_their_spread(std: float) -> None:
    end = integrate(gaussian_velocity(0, std), torch.ones((), dtype=torch.float64), network.STEPS)  # type: ignore[arg-type]
    assert float(end) == pytest.approx(std, rel=0.02)


@pytest.mark.usefixtures("small")
def test_a_fit_without_gain_on_held_out_images_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([3.0, 2.0, *[2.5] * 5, 1.0])
    monkeypatch.setattr(flow_matching._Judge, "error", lambda self, field: next(errors))
    found = fit(two_clusters(100)[0], None, VECTOR, seed=0, device=CPU)
    assert (found.error, found.steps) == (2.0, 30)
    assert found.prior.guide is None  # nothing better came after it
    assert found.guide_steps is None
    assert next(errors) == 1.0


@pytest.mark.usefixtures("small")
def test_the_guide_is_an_earlier_average(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[VelocityField]()

    def error(self: object, field: VelocityField) -> float:
        seen.append(copy.deepcopy(field))
        return 1 / len(seen)

    monkeypatch.setattr(flow_matching._Judge, "error", error)
    found = fit(two_clusters(100)[0], None, VECTOR, seed=0, device=CPU)
    assert (found.steps, found.guide_steps) == (300, 60)
    assert found.prior.guide is not None
    for taken, expected in ((found.prior.field, seen[-1]), (found.prior.guide, seen[3])):
        for ours, theirs in zip(taken.parameters(), expected.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_draws_keep_away_from_the_guide() -> None:
    """Of constant velocities 1 and 0 they end 2 from the noise; without a guide, 1."""
    field, guide = (VelocityField(groups(VECTOR), 0) for _ in range(2))  # they start at 0
    with torch.no_grad():
        field.get_parameter("outputs.0.bias").fill_(1)
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    noise = philox.normal(2, 0, 5, seed=0, purpose="samples")
    for guided, length in ((None, 1), (guide, 2), (field, 1)):
        found = FlowMatching(field, guided, one, two).draw(5, seed=0)
        np.testing.assert_allclose(found, 1 + 2 * (noise + length), atol=1e-5)


# --- in a run -------------------------------------------------------------------------------------


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> Path:
    """A copy of a run that may be changed, and a fit of few steps."""
    monkeypatch.setattr(flow_matching, "MOST_STEPS", 30)
    return Path(shutil.copytree(trained, tmp_path / "own"))


def test_fitted_once_and_kept(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    common = ("sample", "-m", run, "--data-dir", data_dir, "-n", "6", "--prior", "flow-matching")
    outcome = vaecli(*common, "-o", "a.npy")
    assert outcome.code == 0, outcome.err
    assert "by flow matching to latents of mnist, train split; then kept in" in outcome.err
    assert "taught on 450 images" in outcome.err
    assert "chosen by 50 other images" in outcome.err
    assert not [path for path in before if path.read_bytes() != before[path]]
    kept = (run / FLOW_PRIOR).read_bytes()
    again = vaecli(*common, "-o", "b.npy")
    assert "by flow matching, kept in" in again.err
    assert (run / FLOW_PRIOR).read_bytes() == kept
    assert vaecli(*common, "--seed", "9", "-o", "c.npy").code == 0
    assert vaecli("sample", "-m", run, "-n", "6", "-o", "normal.npy").code == 0
    named = vaecli(*common, "--data", "mnist", "-o", "named.npy")
    assert "not kept, since --data names the images" in named.err
    arrays = {path.stem: np.load(path) for path in Path().glob("*.npy")}
    assert (arrays["a"] == arrays["b"]).all()
    assert (arrays["a"] == arrays["named"]).all()
    assert not (arrays["a"] == arrays["c"]).all()
    assert not (arrays["a"] == arrays["normal"]).all()

    model = package.load(run, device="cpu")
    found = model.sample(6, prior="flow-matching", data_dir=data_dir, download=False)
    assert abs(to_uint8(found.numpy()).astype(int) - arrays["a"]).max() <= 1
    with pytest.raises(UsageError, match="no temperature"):
        model.sample(6, prior="flow-matching", temperature=0.5)
    with pytest.raises(UsageError, match="not one of normal, gmm"):
        model.evaluate(prior="flow-matching", data_dir=data_dir)  # type: ignore[arg-type]

    config, tensors = weights.read_model(run / "model.safetensors")
    tensors["encoder.mean.bias"] = tensors["encoder.mean.bias"] + 1
    (run / "model.safetensors").write_bytes(weights.encode_model(config, tensors))
    assert "taught on" in vaecli(*common, "-o", "d.npy").err
    assert (run / FLOW_PRIOR).read_bytes() != kept
    open_run(run).clear()
    assert not (run / FLOW_PRIOR).exists()


def test_the_page_chooses_among_what_sample_draws(
    vaecli: Vaecli, run: Path, data_dir: Path
) -> None:
    model = package.load(run, device="cpu")
    page = ("export", "-m", run, "--format", "html", "--data-dir", data_dir, "--seed", "5")
    assert json.loads(vaecli(*page, "-o", "own.html", "--json").out)["prior"] == "normal"
    for prior in ("gmm", "flow-matching"):  # where both are kept, the second is taken
        asked = ("--prior", prior, "--data-dir", data_dir, "-n", "1024", "-o", f"{prior}.npy")
        assert vaecli("sample", "-m", run, "--seed", "5", *asked).code == 0
        outcome = vaecli(*page, "-o", f"{prior}.html")
        assert f"1,024 draws of the prior {prior} kept in" in outcome.err
        text = Path(f"{prior}.html").read_text().split('id="data">')[1].split("</script>")[0]
        drawn = json.loads(text)["prior"]
        assert (drawn["kind"], drawn["name"], drawn["classes"]) == ("drawn", prior, 1)
        latents = np.frombuffer(base64.b64decode(drawn["values"]), "<f2").reshape(1024, -1)
        found = to_uint8(model.decode(latents.astype(np.float32)).numpy())
        assert abs(found.astype(int) - np.load(f"{prior}.npy")).max() <= 2
        (path,) = model.export(f"{prior}-api.html", "html", seed=5, data_dir=data_dir)
        assert path.read_text() == Path(f"{prior}.html").read_text()
    assert vaecli(*page[:-1], "-1", "-o", "other.html").code == ExitCode.USAGE


def test_what_it_cannot_do_is_refused(vaecli: Vaecli, run: Path) -> None:
    refused = vaecli("sample", "-m", run, "--prior", "flow-matching", "--temperature", "0.7")
    assert refused.code == ExitCode.USAGE
    assert "contradict each other" in refused.err
    refused = vaecli("eval", "-m", run, "--prior", "flow-matching")
    assert (refused.code, "Value error" in refused.err) == (ExitCode.USAGE, False)
    assert "'--prior': 'flow-matching' is not one of" in refused.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaecli.runs.fitted_prior.MAX_POSITIONS", 0)
        refused = vaecli("sample", "-m", run, "--prior", "flow-matching")
    assert refused.code == ExitCode.USAGE
    assert "at 1 positions; it can have" in refused.err
    assert vaecli("reconstruct", "-m", run, "--prior", "flow-matching").code == ExitCode.USAGE


def test_the_file_is_read_as_it_is_written_or_refused(run: Path) -> None:
    loaded, own = load_model(str(run)), open_run(run)
    assert flow_prior.read(own, loaded.weights) is None
    field, guide = (flow_prior.field_of(loaded.config) for _ in range(2))
    for parameter in (*field.parameters(), *guide.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    latents = loaded.config.latents
    centre, scale = np.linspace(0, 1, latents), np.linspace(1, 2, latents)
    for guided, steps in ((None, None), (guide, 3)):
        prior = FlowMatching(field, guided, centre.astype("f4"), scale.astype("f4"))
        flow_prior.write(own, loaded.weights, flow_prior.FittedFlow(prior, 9, 1, 30, steps, 1.0))
        found = flow_prior.read(own, loaded.weights)
        assert found is not None
        assert (found.guide is None) == (guided is None)
        assert (found.draw(4, seed=0) == prior.draw(4, seed=0)).all()
    other = {**loaded.weights, "encoder.mean.bias": loaded.weights["encoder.mean.bias"] + 1}
    assert flow_prior.read(own, other) is None
    state = torch.random.get_rng_state()
    flow_prior.read(own, loaded.weights)
    assert (torch.random.get_rng_state() == state).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_prior, "VERSION", 0)
        assert flow_prior.read(own, loaded.weights) is None

    path = run / FLOW_PRIOR
    written = path.read_bytes()
    wrong = prior.scale.copy()
    wrong[0] = 0
    negative = FlowMatching(field, None, prior.centre, wrong)
    flow_prior.write(own, loaded.weights, flow_prior.FittedFlow(negative, 9, 1, 30, None, 1.0))
    for damaged, words in (
        (path.read_bytes(), "not positive"),
        (written[:-1] + bytes([written[-1] ^ 1]), "SHA-256"),
        (written[:-8], "damaged"),
        ((run / "model.safetensors").read_bytes(), "no prior"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=words) as caught:
            flow_prior.read(own, loaded.weights)
        assert "Remove the file" in str(caught.value.hint)


def test_a_grid_with_classes(vaecli: Vaecli, run: Path) -> None:
    train = ("train", "--data", "digits", "--limit", "300", "--epochs", "1", "-q", "-o", "run")
    grid = ("--arch", "grid", "--hidden", "4", "--latent-dim", "2", "--condition", "labels")
    assert vaecli(*train, *grid, "--data-dir", "cache").code == 0
    page = ("export", "--format", "html", "--data-dir", "cache", "-m")
    assert "keeps its prior for the next page" in vaecli(*page, "run").err
    assert "Random" not in vaecli(*page, "run/model.safetensors").err
    with pytest.MonkeyPatch.context() as patch:
        for limit in ("MAX_POSITIONS", "MAX_COVARIANCE"):
            patch.setattr(f"vaecli.runs.fitted_prior.{limit}", 0)
        assert "Random" not in vaecli(*page, "run").err
        refused = vaecli("sample", "-m", "run", "--prior", "gmm")
        assert (refused.code, "flow-matching" in refused.err) == (ExitCode.USAGE, False)
    common = ("sample", "-m", "run", "--prior", "flow-matching", "--data-dir", "cache")
    rows = vaecli(*common, "-o", "rows.png")
    assert rows.code == 0, rows.err
    for label in ("3", "4"):
        assert vaecli(*common, "-n", "5", "--label", label, "-o", f"{label}.npy").code == 0
    assert vaecli(*common, "-n", "5", "--label", "3", "-o", "same.npy").code == 0
    arrays = {path.stem: np.load(path) for path in Path().glob("*.npy")}
    assert (arrays["3"] == arrays["same"]).all()
    assert not (arrays["3"] == arrays["4"]).all()
    model = package.load("run", device="cpu")
    found = model.sample(5, label="3", prior="flow-matching", data_dir="cache", download=False)
    assert abs(to_uint8(found.numpy()).astype(int) - arrays["3"]).max() <= 1
    drawn = from_kept(load_model("run"), CPU)
    assert drawn is not None
    count, width = drawn.latents.shape
    assert (drawn.classes, count) == (10, (1 << 17) // width)
    alone = flow_prior.read(open_run(Path("run")), load_model("run").weights)
    assert alone is not None
    labels = np.arange(count) % 10
    assert (drawn.latents == alone.draw(count, seed=model.seed, labels=labels)).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaecli.export.drawn.MOST_NUMBERS", 1)
        few = from_kept(load_model("run"), CPU)
    assert few is not None
    assert (few.latents == drawn.latents[:80]).all()  # eight of each class
