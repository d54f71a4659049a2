"""`train --condition labels`: the mathematics, the training, and every command that takes one."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence

import vaecli as package
from browser import chromium, needs_chromium
from conftest import TRAIN, Vaecli
from test_resume import same, state, stop_at
from test_training import DATASET, finish, make_run, rows
from vaecli.cli import app
from vaecli.config import Arch, LearnedPrior, ModelConfig, TrainConfig
from vaecli.data import labels
from vaecli.data.dataset import Dataset, Images
from vaecli.data.pixels import as_float
from vaecli.data.splits_and_classes import UNKNOWN
from vaecli.errors import ExitCode, UsageError
from vaecli.evaluation import generation, heatmap, latent_space
from vaecli.evaluation.evaluate import evaluate
from vaecli.export import html, onnx, parity, parts, pt2
from vaecli.model import layers, network, one_class
from vaecli.model import operations as op
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.vae import VAE, TorchRunner, build, with_weights
from vaecli.runs import weights
from vaecli.training.backpropagation import covers
from vaecli.training.objective import objective

ARCHS: tuple[Arch, ...] = ("mlp", "conv", "grid")
CLASSES = ("cat", "dog", "emu")


def config(arch: Arch = "mlp", prior: LearnedPrior = "normal") -> ModelConfig:
    side = 8 if arch == "mlp" else 17
    return ModelConfig(
        image_shape=(1, side, side),
        arch=arch,
        hidden=(12, 10) if arch == "mlp" else (8,),
        latent_dim=3,
        prior=prior,
        condition="labels",
        classes=CLASSES,
        class_counts=(10, 30, 60),
    )


def lively(model: ModelConfig, size: float = 0.3) -> VAE:
    """A model whose weights, those of the classes too, are far from their start."""
    vae, generator = build(model, seed=0), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return vae


def pixels(count: int, model: ModelConfig, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *model.image_shape), np.uint8)


# --- the mathematics --------------------------------------------------------------------------


def test_a_row_is_the_class_as_one_hot_numbers_among_the_inputs() -> None:
    layer = layers.build(op.Linear(4, 5, classes=3))
    table = layer.get_parameter(op.CLASS_ROWS)
    with torch.no_grad():
        table.normal_()
    x, y = torch.randn(6, 4), torch.tensor([2, 0, 1, 1, 2, 0])
    one_hot = torch.nn.functional.one_hot(y, 3).float()
    wide = torch.nn.Linear(7, 5)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([layer.get_parameter("weight"), table.T], 1))
        wide.bias.copy_(layer.get_parameter("bias"))
    torch.testing.assert_close(layers.run(layer, x, y), wide(torch.cat([x, one_hot], 1)))
    torch.testing.assert_close(layers.run(layer, x, y * 0), wide(x_of_class(x, 0)))


def x_of_class(x: torch.Tensor, label: int) -> torch.Tensor:
    one_hot = torch.zeros(len(x), 3)
    one_hot[:, label] = 1
    return torch.cat([x, one_hot], 1)


@pytest.mark.parametrize("arch", ["mlp", "conv"])
def test_the_objective_is_that_of_a_normal_prior_of_each_class(arch: Arch) -> None:
    """By torch.distributions, in the space of z itself: p(z|y) = N(m_y, s_y), q(z|x, y)."""
    model = lively(config(arch)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, *model.config.image_shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    decoder = model.decoder
    assert decoder.class_mean is not None
    assert decoder.class_log_std is not None
    m, s = decoder.class_mean[y], decoder.class_log_std[y].exp()
    mean, log_variance = model.encoder(x, y)
    posterior = Normal(m + s * mean, s * torch.exp(0.5 * log_variance))
    rate = kl_divergence(posterior, Normal(m, s)).sum(1)
    z = posterior.mean + posterior.stddev * noise
    logits = decoder.parameters_of(decoder.hidden(z, y), z.dtype)  # without shift and scale
    fit = Bernoulli(logits=logits, validate_args=False).log_prob(x).sum((1, 2, 3))
    found = objective(model, x, noise, 0.7, 0.0, labels=y)
    torch.testing.assert_close(found.rate, rate)
    torch.testing.assert_close(found.distortion, -fit)
    torch.testing.assert_close(found.objective, -fit + 0.7 * rate)
    other = objective(model, x, noise, 0.7, 0.0, labels=y.roll(1))
    assert float((found.distortion - other.distortion).detach().abs().max()) > 0.1


@pytest.mark.parametrize("gradient", ["iwae", "dreg"])
@pytest.mark.parametrize("arch", ARCHS)
def test_several_draws_are_of_the_class_of_their_image(arch: Arch, gradient: Any) -> None:
    """The bound of a batch is that of its images one by one."""
    if arch == "grid" and gradient == "dreg":
        return
    model = lively(config(arch), 0.1).double()
    x = torch.rand(4, *model.config.image_shape, dtype=torch.float64)
    noise = torch.randn(4, 5, model.config.latents, dtype=torch.float64)
    y = torch.tensor([0, 2, 1, 2])
    whole = objective(model, x, noise, 1.0, 0.0, gradient, y)
    for row in range(4):
        part = slice(row, row + 1)
        one = objective(model, x[part], noise[part], 1.0, 0.0, gradient, y[part])
        torch.testing.assert_close(whole.objective[part], one.objective)


def test_it_starts_as_the_model_without_classes() -> None:
    for arch in ARCHS:
        ours = build(config(arch), seed=4)
        plain = replace(ours.config, condition="none", classes=(), class_counts=())
        theirs = build(plain, seed=4).state_dict()
        found = ours.state_dict()
        assert all(torch.equal(found[name], theirs[name]) for name in theirs)
        added = found.keys() - theirs.keys()
        assert len(added) == (2 if arch == "grid" else 4)
        assert all((found[name] == 0).all() for name in added)
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        assert network.of(ours.config).shapes() == shapes


# --- the interpreters -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "prior"), [*((arch, "normal") for arch in ARCHS), ("mlp", "flow"), ("mlp", "mixture")]
)
def test_torch_numpy_and_the_model_of_one_class_agree(arch: Arch, prior: LearnedPrior) -> None:
    vae = lively(config(arch, prior), 0.1)
    model, arrays = vae.config, vae.weights()
    images, y = as_float(pixels(7, model)), np.array([0, 1, 2, 2, 0, 1, 1])
    noise = np.random.default_rng(1).standard_normal((7, model.latents)).astype("f4")
    ours, theirs = TorchRunner(vae), NumpyVAE(model, arrays)
    draws = noise if arch == "grid" else None
    for mine, others in zip(
        (*ours.encode(images, draws, y), ours.decode(noise, y)),
        (*theirs.encode(images, draws, y), theirs.decode(noise, y)),
        strict=True,
    ):
        np.testing.assert_allclose(mine, others, rtol=1e-4, atol=2e-5)
    for place in range(3):
        plain, tensors = one_class.of_class(model, arrays, place)
        assert {n: t.shape for n, t in tensors.items()} == network.of(plain).shapes()
        alone = TorchRunner(with_weights(plain, tensors))
        rows = np.flatnonzero(y == place)
        np.testing.assert_allclose(
            alone.decode(noise[rows]), ours.decode(noise, y)[rows], rtol=1e-4, atol=2e-5
        )
        mean, _ = alone.encode(images[rows], None if draws is None else draws[rows])
        np.testing.assert_allclose(
            mean, ours.encode(images, draws, y)[0][rows], rtol=1e-4, atol=2e-5
        )
    assert np.abs(ours.decode(noise, y) - ours.decode(noise, y[::-1].copy())).max() > 0.1


# --- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_images_are_judged_given_their_class(arch: Arch) -> None:
    """Image by image what the model of its class says; numbers of classes may be any."""
    vae = lively(config(arch), 0.1)
    names, y = {5: "emu", 7: "cat", 9: "dog"}, np.array([5, 7, 9, 9, 5, 7, 7, 5])
    array = pixels(8, vae.config)
    images = Images(array, y, classes=names)
    found = evaluate(vae, images, seed=1, importance_samples=9, batch_size=3)
    assert found.likelihoods is not None
    embedding = latent_space.embed(TorchRunner(vae), images)
    surprise = heatmap.measure(TorchRunner(vae), images)
    for place, name in enumerate(CLASSES):
        alone = with_weights(*one_class.of_class(vae.config, vae.weights(), place))
        other = evaluate(alone, images, seed=1, importance_samples=9)
        assert other.likelihoods is not None
        mine = np.array([names[label] == name for label in y.tolist()])
        for ours, theirs in (
            (found.losses, other.losses),
            (found.means, other.means),
            (found.likelihoods.nll, other.likelihoods.nll),
            (embedding.mean, latent_space.embed(TorchRunner(alone), images).mean),
        ):
            np.testing.assert_allclose(ours[mine], theirs[mine], rtol=1e-4, atol=1e-3)
            assert np.abs(np.asarray(ours[~mine] - theirs[~mine])).max() > 1e-2
    maps = [
        heatmap.surprise(TorchRunner(vae), array[i : i + 1], labels=np.array([place]))
        for i, place in enumerate([2, 0, 1, 1, 2, 0, 0, 2])
    ]
    np.testing.assert_allclose(surprise.mean, np.concatenate(maps).mean(0), atol=1e-4)


def test_images_without_a_class_of_the_model_are_refused() -> None:
    vae = lively(config())
    array = pixels(2, vae.config)
    for given, sentence in (
        (None, "these images have no classes"),
        (np.array([0, UNKNOWN]), "some of these images have no class"),
        (np.array([0, 3]), "does not know the class 'fox'"),
    ):
        images = Images(array, given, classes={0: "cat", 3: "fox"})
        with pytest.raises(UsageError, match=sentence):
            evaluate(vae, images, seed=0)


# --- training ---------------------------------------------------------------------------------


def patterns(count: int, seed: int) -> Images:
    """Eight fixed patterns of black and white, in disorder: the class says every pixel."""
    known = np.random.default_rng(0).integers(0, 2, (8, 1, 8, 8)).astype(np.uint8) * 255
    y = np.random.default_rng(seed).permutation(np.arange(count) % 8)
    return Images(known[y], y)


PATTERNS = Dataset("patterns", patterns(512, 1), patterns(64, 2))


@pytest.mark.parametrize(
    "settings", [{}, {"patience": 99}, {"importance_samples": 2, "binarize": "dynamic"}]
)
def test_images_keep_their_class(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Without the class the loss is at least the entropy of eight patterns, log 8; with it, 0."""
    losses = {}
    for condition in ("none", "labels"):
        run = make_run(
            tmp_path / condition, PATTERNS, condition=condition, epochs=40, lr=0.02, **settings
        )
        finish(run, PATTERNS)
        losses[condition] = float(rows(run)[-1]["test_loss"])
    assert losses["none"] > math.log(8)
    assert losses["labels"] < 0.5


@pytest.mark.parametrize(("step", "epochs"), [(1, 2), (8, 3)])
def test_stopped_and_continued_is_the_same(tmp_path: Path, step: int, epochs: int) -> None:
    whole = make_run(tmp_path / "whole", condition="labels", epochs=epochs)
    finish(whole)
    stopped = make_run(tmp_path / "stopped", condition="labels", epochs=epochs)
    stop_at(stopped, step, DATASET)
    finish(stopped)
    assert same(state(whole), state(stopped))
    kept = (run.path / "model.safetensors" for run in (whole, stopped))
    assert len({path.read_bytes() for path in kept}) == 1


def test_the_gradient_that_is_written_out_leaves_it_alone() -> None:
    plain = replace(config(), condition="none", classes=(), class_counts=())
    cpu = torch.device("cpu")
    assert covers(build(plain, seed=0), TrainConfig(), cpu)
    assert not covers(build(config(), seed=0), TrainConfig(), cpu)


def test_every_row_learns(tmp_path: Path) -> None:
    """In training, in float32, each class moves its own rows; none is left at its start."""
    for arch in ("mlp", "grid"):
        side = 8 if arch == "mlp" else 16
        big = np.kron(np.asarray(DATASET.train.pixels), np.ones((1, 1, side // 8, side // 8), "u1"))
        images = Images(big, DATASET.train.labels)
        run = make_run(
            tmp_path / arch, Dataset("b", images, images), arch=arch, condition="labels", epochs=2
        )
        finish(run, Dataset("b", images, images))
        _, tensors = weights.read_model(run.path / "model.safetensors")
        tables = {name: t for name, t in tensors.items() if "class" in name}
        assert len(tables) == (2 if arch == "grid" else 4)
        for name, table in tables.items():
            assert len(table) == 4
            assert (np.abs(table.reshape(4, -1)).max(1) > 0).all(), name
            assert len(np.unique(table.reshape(4, -1), axis=0)) == 4, name


# --- the commands -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A finished run of three epochs that takes the class of a digit."""
    path = tmp_path_factory.mktemp("labels") / "run"
    words = [*TRAIN, "--epochs", "3", "--condition", "labels", "--data-dir", str(data_dir)]
    assert app.run([*words, "-o", str(path), "-q"]) == 0
    return path


def test_eval_says_what_its_numbers_are_of(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    done = vaecli("eval", "-m", run, "--json", "--data-dir", data_dir)
    value = json.loads(done.out)
    assert value["condition"] == "labels"
    assert "log p(x|label)" in value["protocol"]
    table = (run / "metrics.csv").read_text().splitlines()
    last = dict(zip(table[0].split(","), table[-1].split(","), strict=True))
    assert value["loss"] == pytest.approx(float(last["test_loss"]), abs=1e-3)
    card = (run / "README.md").read_text()
    assert "log p(x|label)" in card
    assert "vaecli sample -m . --label 0" in card
    assert "unconditional" not in card
    assert "vaecli reconstruct IMAGE.png -m . --label 0" in card
    alerts = vaecli("eval", "-m", run, "--alert-rate", 0.1, "--json", "--data-dir", data_dir)
    assert alerts.code == 0, alerts.err
    mixture = vaecli("eval", "-m", run, "--prior", "gmm", "--json", "--data-dir", data_dir)
    assert mixture.code == 0, mixture.err
    assert json.loads(mixture.out)["loss_normal"] == pytest.approx(value["loss"], abs=1e-4)


def test_images_in_memory_are_judged_given_their_class(run: Path, data_dir: Path) -> None:
    """As `eval` judges the same images of the set, by name or number."""
    model = package.load(run, device="cpu")
    raw = (data_dir / "MNIST/raw/t10k-labels-idx1-ubyte.gz").read_bytes()
    y = np.frombuffer(gzip.decompress(raw)[8:], np.uint8)[:40]
    raw = (data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz").read_bytes()
    images = np.frombuffer(gzip.decompress(raw)[16:], np.uint8).reshape(-1, 1, 28, 28)[:40].copy()
    whole = model.evaluate(limit=40, data_dir=data_dir, download=False)
    for given in (y.tolist(), [str(label) for label in y]):
        torch.testing.assert_close(model.evaluate(images, labels=given).losses, whole.losses)
    scored = model.score(images, labels=y.tolist())
    np.testing.assert_allclose(scored["loss"], whole.losses, atol=1e-5)
    assert scored["class"].tolist() == [str(label) for label in y]
    other = model.evaluate(images, labels=3)
    assert float((other.losses - whole.losses).abs().max()) > 0.1
    for call in (
        lambda: model.evaluate(images),
        lambda: model.evaluate(images, labels=[1, 2]),
        lambda: model.evaluate("mnist", labels=3),
        lambda: model.encode(images),
        lambda: model.decode(np.zeros((2, 8)), labels="cat"),
    ):
        with pytest.raises(UsageError):
            call()


def test_models_with_and_without_a_class_do_not_compare(
    vaecli: Vaecli, run: Path, trained: Path, data_dir: Path
) -> None:
    done = vaecli("eval", "-m", run, "-m", trained, "--data-dir", data_dir)
    assert done.code == ExitCode.USAGE
    assert "given its label" in done.err
    assert vaecli("eval", "-m", run, "-m", run, "--data-dir", data_dir).code == 0


def test_data_without_the_classes_of_the_model(vaecli: Vaecli, run: Path) -> None:
    np.save("plain.npy", np.zeros((4, 28, 28), np.uint8))
    Image.new("L", (28, 28)).save("flat.png")
    for folder in ("0", "7", "elk"):
        Path("animals", folder).mkdir(parents=True)
        Image.new("L", (28, 28)).save(f"animals/{folder}/a.png")
    for data, sentence in (
        ("plain.npy", "these images have no classes"),
        ("animals", "does not know the class 'elk'"),
    ):
        done = vaecli("eval", "-m", run, "-d", data)
        assert done.code == ExitCode.USAGE, done.err
        assert sentence in done.err
        assert "--condition labels" in done.err
    (Path("animals/elk") / "a.png").unlink()
    Path("animals/elk").rmdir()
    done = vaecli("eval", "-m", run, "-d", "animals", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_images"] == 2


def test_training_needs_classes(vaecli: Vaecli, data_dir: Path) -> None:
    rng = np.random.default_rng(0)
    np.save("plain.npy", rng.integers(0, 256, (30, 28, 28), np.uint8))
    np.savez(
        "test.npz",
        x_train=rng.integers(0, 256, (30, 28, 28), np.uint8),
        y_train=np.arange(30) % 2,
        x_test=rng.integers(0, 256, (9, 28, 28), np.uint8),
        y_test=np.arange(9) % 3,
    )
    np.savez(
        "one.npz", images=rng.integers(0, 256, (30, 28, 28), np.uint8), labels=np.zeros(30, int)
    )
    for words, sentence in (
        (("-d", "plain.npy"), "its training images have no classes"),
        (("-d", "test.npz"), "there are test images of the class '2', but no training images"),
        (("-d", "one.npz"), "have 1 class: it takes 2"),
        (("-d", "mnist", "--limit", 3), "but no training images"),
        (("-d", "mnist", "--condition", "colours"), "colours"),
    ):
        done = vaecli("train", "--condition", "labels", "--data-dir", data_dir, *words, "-o", "out")
        assert done.code == ExitCode.USAGE, (words, done.err)
        assert sentence in done.err, done.err
        assert not Path("out").exists()


def means(path: str) -> NDArray[np.float64]:
    return np.asarray(np.load(path), np.float64).reshape(-1, 28, 28)


def test_sample_takes_a_class(vaecli: Vaecli, run: Path) -> None:
    model = package.load(run, device="cpu")
    for label in (3, 8):
        assert (
            vaecli("sample", "-m", run, "--label", label, "-n", 40, "-o", f"{label}.npy").code == 0
        )
        expected = 255 * model.sample(40, label=label)[:, 0].double().numpy()
        np.testing.assert_allclose(means(f"{label}.npy"), expected, atol=0.51)
    assert np.abs(means("3.npy") - means("8.npy")).mean() > 0.2  # the same latents
    done = vaecli("sample", "-m", run, "-n", 300, "-o", "many.npy", "--json")
    drawn = np.array([int(name) for name in json.loads(done.out)["labels"]])
    expected = 255 * model.sample(300)[:, 0].double().numpy()
    np.testing.assert_allclose(means("many.npy"), expected, atol=0.51)
    counts = np.array(model.vae.config.class_counts)
    shares, found = counts / counts.sum(), np.bincount(drawn, minlength=10) / 300
    assert (np.abs(found - shares) < 4 * np.sqrt(shares / 300)).all()
    for place in (3, 8):
        ours = model.decode(latents(model, 300), labels=place)[drawn == place, 0]
        np.testing.assert_allclose(
            means("many.npy")[drawn == place], 255 * ours.double().numpy(), atol=0.51
        )


def latents(model: Any, count: int) -> NDArray[np.float32]:
    return generation.draw(TorchRunner(model.vae), count, seed=0)


def test_a_grid_has_a_row_for_each_class(vaecli: Vaecli, run: Path) -> None:
    done = vaecli("sample", "-m", run, "--columns", 3, "-o", "rows.png", "--json")
    assert json.loads(done.out)["labels"] == [str(place) for place in range(10) for _ in range(3)]
    whole = np.asarray(Image.open("rows.png").convert("L"))
    model = package.load(run, device="cpu")
    tiles = model.decode(latents(model, 30), labels=np.arange(10).repeat(3).tolist())
    height = (whole.shape[0] - 28 - 8 - 2) // 10
    for row in (0, 4, 9):
        # the first tile of a row, enlarged, somewhere right of its name
        tile = np.kron(255 * tiles[3 * row, 0].numpy(), np.ones((2, 2)))
        top = 28 + 2 + row * height
        found = min(
            np.abs(whole[y : y + 56, 134:190].astype(float) - tile).mean()
            for y in range(top - 3, top + 4)
            if whole[y : y + 56, 134:190].shape == tile.shape
        )
        assert found < 1, row


def test_walks_and_given_latents_need_a_class(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    np.save("z.npy", np.zeros((2, 8), np.float32))
    for words in (
        ("--latents", "z.npy"),
        ("--traverse",),
        ("--manifold", "--steps", 3),
        ("--interpolate", 0, 1),
    ):
        command = ("sample", "-m", run, *words, "--data-dir", data_dir, "-f", "-o")
        refused = vaecli(*command, "a.png")
        assert refused.code == ExitCode.USAGE
        assert "--label: 0, 1, 2" in refused.err
        pictures = []
        for label in (3, 8):
            done = vaecli(*command, "b.npy", "--label", label)
            assert done.code == 0, done.err
            pictures.append(means("b.npy"))
        assert np.abs(pictures[0] - pictures[1]).max() > 2
    model = package.load(run, device="cpu")
    assert vaecli("sample", "-m", run, "--latents", "z.npy", "--label", 8, "-o", "c.npy").code == 0
    expected = model.decode(np.zeros((2, 8), np.float32), labels="8")[:, 0].double().numpy()
    np.testing.assert_allclose(means("c.npy"), 255 * expected, atol=0.51)


def test_reconstruct_takes_a_class(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    model = package.load(run, device="cpu")
    digit = (255 * model.sample(1, label=5)[0, 0]).round().byte().numpy()
    Image.fromarray(digit).save("five.png")
    refused = vaecli("reconstruct", "five.png", "-m", run)
    assert refused.code == ExitCode.USAGE
    assert "--label: 0, 1, 2" in refused.err
    scores = {}
    for label in (5, 0):
        words = ("reconstruct", "five.png", "-m", run, "--label", label, "--json", "--heatmap")
        done = vaecli(*words, "-o", f"{label}.png")
        assert done.code == 0, done.err
        scores[label] = json.loads(done.out)["loss"]
        ours = model.reconstruct(torch.from_numpy(digit)[None, None], labels=label)[0, 0]
        found = np.asarray(Image.open(f"{label}.png")).astype(float)
        np.testing.assert_allclose(found, 255 * ours.double().numpy(), atol=0.51)
    assert scores[5] < scores[0]
    grids = []
    for given in ((), ("--label", 5)):
        done = vaecli("reconstruct", "-m", run, *given, "--data-dir", data_dir, "-f", "-o", "g.png")
        assert done.code == 0, done.err
        grids.append(np.asarray(Image.open("g.png")))
    assert (grids[0] != grids[1]).any()


@pytest.mark.parametrize(
    "words", [("sample", "-n", 1), ("reconstruct", "five.png"), ("sample", "--traverse")]
)
def test_labels_that_make_no_sense(
    vaecli: Vaecli, run: Path, trained: Path, words: tuple[object, ...]
) -> None:
    Image.new("L", (28, 28)).save("five.png")
    unknown = vaecli(*words, "-m", run, "--label", "11")
    assert unknown.code == ExitCode.USAGE
    assert "its classes are 0, 1, 2, 3" in unknown.err.lower()
    without = vaecli(*words, "-m", trained, "--label", "1")
    assert without.code == ExitCode.USAGE
    assert "without --condition labels" in without.err


def test_a_class_by_its_number_unless_a_class_is_called_so() -> None:
    model = config()
    assert [labels.place(model, name) for name in ("dog", "0", "2")] == [1, 0, 2]
    numbers = replace(model, classes=("3", "7", "-1"))
    assert labels.place(numbers, "7") == 1
    for known, name in ((numbers, "0"), (model, "3"), (model, "²"), (model, "")):
        with pytest.raises(UsageError, match="no such class"):
            labels.place(known, name)


def test_classes_are_drawn_as_frequent_as_in_training() -> None:
    model = config()
    drawn = labels.drawn(model, 20_000, seed=3)
    assert drawn is not None
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.1, 0.3, 0.6], atol=0.015)
    np.testing.assert_array_equal(labels.drawn(model, 50, seed=3), drawn[:50])
    assert labels.drawn(replace(model, condition="none", classes=()), 5, seed=3) is None


def test_weights_files_of_other_classes_are_refused(vaecli: Vaecli, run: Path) -> None:
    model, tensors = weights.read_model(run / "model.safetensors")
    Path("own.safetensors").write_bytes(weights.encode_model(model, tensors))
    assert vaecli("sample", "-m", "own.safetensors", "--label", 3, "-n", 1).code == 0
    lying: list[Callable[[ModelConfig], ModelConfig]] = [
        lambda model: replace(
            model, classes=model.classes[:9], class_counts=model.class_counts[:9]
        ),
        lambda model: replace(model, classes=(*model.classes[:9], "0")),
        lambda model: replace(model, classes=(), class_counts=()),
        lambda model: replace(model, class_counts=model.class_counts[:9]),
        lambda model: replace(model, class_counts=(*model.class_counts[:9], 0)),
        lambda model: replace(model, condition="none"),
        lambda model: replace(model, condition="none", classes=(), class_counts=()),
        lambda model: replace(model, classes=(*model.classes[:9], 3)),  # type: ignore[arg-type]
    ]
    for change in lying:
        Path("lying.safetensors").write_bytes(weights.encode_model(change(model), tensors))
        done = vaecli("sample", "-m", "lying.safetensors", "-n", 1)
        assert done.code == ExitCode.MODEL, change(model)
    huge = {n: np.full_like(t, 3e38) if "class" in n else t for n, t in tensors.items()}
    Path("huge.safetensors").write_bytes(weights.encode_model(model, huge))
    for words in (("-n", 1), ("--label", 3, "--manifold", "--steps", 2)):
        done = vaecli("sample", "-m", "huge.safetensors", *words, "-d", "mnist", "--no-download")
        assert done.code in (0, ExitCode.DATA, ExitCode.ENVIRONMENT), done.err


def test_it_starts_from_weights_of_the_same_classes(
    vaecli: Vaecli, run: Path, trained: Path, data_dir: Path
) -> None:
    common = (*TRAIN, "--epochs", 1, "--data-dir", data_dir, "-q")
    started = vaecli(*common, "--init-from", run, "-o", "from")
    assert started.code == 0, started.err
    model, _ = weights.read_model(Path("from/model.safetensors"))
    assert model.classes == tuple("0123456789")
    for words, sentence in (
        (("--condition", "none", "--init-from", run), "the weights have labels, not none"),
        (("--condition", "labels", "--init-from", trained), "the weights have none, not labels"),
    ):
        refused = vaecli(*common, *words, "-o", "other")
        assert refused.code == ExitCode.MODEL
        assert sentence in refused.err
    differing = vaecli("train", "--resume", run, "--condition", "none", "--data-dir", data_dir)
    assert differing.code == ExitCode.USAGE
    assert "the run has labels, not none" in differing.err
    done = vaecli("train", "--resume", run, "--condition", "labels", "--data-dir", data_dir)
    assert done.code == 0, done.err


# --- exports ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("mlp", pt2),
        ("conv", pt2),
        ("grid", pt2),
        ("conv", onnx),
        pytest.param("mlp", onnx, marks=pytest.mark.slow),
        pytest.param("grid", onnx, marks=pytest.mark.slow),
    ],
)
def test_exported_parts_take_the_class(arch: Arch, kind: Any) -> None:
    if kind is onnx:
        pytest.importorskip("onnxruntime", reason="needs onnxruntime: vaecli[onnx]")
        pytest.importorskip("onnxscript", reason="needs onnxscript: vaecli[onnx]")
    vae = lively(config(arch), 0.1)
    x = torch.from_numpy(as_float(pixels(5, vae.config)))
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((5, vae.config.latents), "f4"))
    y = torch.tensor([2, 0, 1, 1, 2])
    encoder, decoder = parts.split(vae)
    assert (encoder.inputs, decoder.inputs) == (("image", "label"), ("latent", "label"))
    for part, given, wanted in (
        (encoder, x, vae.encode(x, labels=y)),
        (decoder, z, (vae.mean_image(z, y),)),
    ):
        run = kind.load(kind.encode(part))
        assert parity.difference(part, run) < 1e-4
        for mine, theirs in zip(run(given, y), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
        assert float((run(given, y)[0] - run(given, y * 0)[0]).abs().max()) > 1e-2
        assert "int64" in kind.usage(part, "part")


def test_every_export_of_a_run(vaecli: Vaecli, run: Path, data_dir: Path) -> None:
    done = vaecli("export", "-m", run, "--format", "pt2", "-o", "out", "--json")
    assert done.code == 0, done.err
    for row in json.loads(done.out)["files"]:
        assert row["difference"] < 1e-4
        exec(row["usage"], {})  # as it is printed
    for format in ("safetensors", "html"):
        done = vaecli("export", "-m", run, "--format", format, "--data-dir", data_dir)
        assert done.code == 0, done.err
    files = [vaecli("sample", "-m", name, "--label", 4, "-n", 2, "-o", f"{place}.npy").code
             for place, name in enumerate((run, "run.safetensors"))]  # fmt: skip
    assert files == [0, 0]
    assert Path("0.npy").read_bytes() == Path("1.npy").read_bytes()


@needs_chromium
@pytest.mark.parametrize("arch", ARCHS)
def test_the_page_has_a_menu_of_classes(
    arch: Arch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    vae = lively(replace(config(arch), classes=("cat", "</script>", "e'mu")), 0.1)
    images = Images(
        pixels(6, vae.config),
        np.array([1, 1, 2, 0, 2, 0]),
        classes=dict(enumerate(vae.config.classes)),
    )
    folder = tmp_path_factory.mktemp("c")  # short: the path of Chromium's socket is limited
    path = folder / "page.html"
    path.write_text(html.render(vae, title="t", embedding=html.embed(vae, images)).text)
    z = np.random.default_rng(2).standard_normal((4, vae.config.latents), "f4")
    y = [2, 0, 1, 1]
    with chromium(folder / "profile") as browser:
        browser.size(1000, 800)
        browser.open(path)
        found = browser.run(
            f"{json.dumps(z.tolist())}.map((z, i) => [...decode(Float32Array.from(z), {y}[i])])"
        )
        listed = browser.run("[...document.querySelectorAll('#class option')].map((o) => o.text)")
        first = browser.run("[chosen, +$('class').value, $('command').textContent]")
        shown = browser.run(
            "(() => { const seen = () => [chosen, $('command').textContent,"
            " $('picture').toDataURL(), $('end-a').toDataURL()];"
            " const menu = $('class'); menu.value = 2; menu.dispatchEvent(new Event('change'));"
            " const two = seen(); document.querySelector('#examples button').click();"
            " return [two, seen()] })()"
        )
        hidden = browser.run("$('class-field').hidden")
    wanted = vae.mean_image(torch.from_numpy(z), torch.tensor(y)).detach().numpy()
    np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, atol=5e-3)
    assert listed == list(vae.config.classes)
    assert not hidden
    assert first[0] == first[1] == 0  # of the first example: one of each class in turn
    assert first[2].endswith("--label cat")
    (place, command, picture, end), back = shown
    assert (place, back[0]) == (2, 0)
    assert command.endswith("""--label 'e'"'"'mu'""")
    assert picture != back[2]
    assert end != back[3]
