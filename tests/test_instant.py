"""`reconstruct` and `sample` without torch: the same pictures, and nothing heavy imported."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from conftest import Vaecli
from test_convolution import lively
from vaecli.cli import inputs
from vaecli.config import Activation, Likelihood, ModelConfig
from vaecli.data.pixels import as_float
from vaecli.evaluation import generation
from vaecli.model import network
from vaecli.model import operations as op
from vaecli.model.layers import build as layer
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.numpy_likelihoods import PIXELS
from vaecli.model.numpy_vae import NumpyVAE
from vaecli.model.vae import VAE, TorchRunner, build
from vaecli.runs import weights
from vaecli.runs.load import BUNDLED_FILE
from vaecli.system import threads

MLP: dict[str, Any] = {"hidden": (30, 20)}
CONV: dict[str, Any] = {"arch": "conv", "hidden": (4,)}


def numpy_of(model: VAE) -> NumpyVAE:
    return NumpyVAE(model.config, model.weights())


def pixels(count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


OPERATIONS: list[tuple[op.Operation, tuple[int, ...]]] = [
    (op.Linear(12, 5), (12,)),
    *((op.Nonlinearity(name), (7,)) for name in get_args(Activation)),
    (op.Unflatten((2, 3, 4)), (24,)),
    (op.Flatten(), (2, 3, 4)),
    (op.ChannelsLast(), (2, 3, 4)),
    (op.Convolution(3, 4), (3, 5, 6)),
    (op.Convolution(3, 4, stride=2), (3, 5, 6)),
    (op.Convolution(3, 4, bias=False), (3, 1, 2)),
    (op.Residual(4, "gelu"), (4, 5, 3)),
    (op.Enlarge(10, 8), (3, 5, 4)),
    (op.Enlarge(9, 7), (3, 5, 4)),
    (op.Output(3, (1, 5, 6)), (3, 5, 6)),
    (op.Output(3, (1, 9, 12), shuffled=True), (3, 5, 6)),
    (op.Convolution(3, 4, size=1), (3, 5, 6)),
    (op.Constant((3, 5, 6)), (1, 1, 1)),
    (op.Centre(), (3, 5, 6)),
    (op.Keep(), (3, 5, 6)),
]


@pytest.mark.parametrize(("operation", "shape"), OPERATIONS, ids=lambda value: str(value))
def test_an_operation_is_the_same_in_torch_and_in_numpy(
    operation: op.Operation, shape: tuple[int, ...]
) -> None:
    module = layer(operation)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert found == operation.weights
    values = torch.randn(3, *shape, generator=generator)
    with torch.no_grad():
        expected = module(values).numpy()
    weights = {f"layer.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    runner = NumpyVAE(ModelConfig(image_shape=(1, 4, 4)), weights)
    given = values.numpy()
    result = runner._run(
        [("layer", operation)], given.transpose(0, 2, 3, 1) if given.ndim == 4 else given
    )
    result = result.transpose(0, 3, 1, 2) if result.ndim == 4 else result
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_every_operation_is_in_the_table() -> None:
    tested = {type(operation) for operation, _ in OPERATIONS}
    assert tested | {op.Inject} == {*get_args(op.Operation)}  # latents besides: see test_grid.py


@pytest.mark.parametrize("arch", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("likelihood", get_args(Likelihood))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 40), (3, 33, 16), (1, 64, 64)])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_pictures_are_those_of_torch(
    arch: dict[str, Any],
    likelihood: Likelihood,
    shape: tuple[int, int, int],
    activation: Activation,
) -> None:
    """Means within 1e-5, PNG levels differ by at most one in at most 1 of 10,000 values."""
    config = ModelConfig(
        image_shape=shape, likelihood=likelihood, activation=activation, latent_dim=5, **arch
    )
    model = lively(config)
    ours, theirs = numpy_of(model), TorchRunner(model)
    latents = generation.draw(ours, 20, seed=0)
    output = ours.decode(latents)
    np.testing.assert_allclose(output, theirs.decode(latents), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        mean = model.mean_image(torch.from_numpy(latents)).numpy()
    found = PIXELS[likelihood].mean(output, ours.log_scale).clip(0, 1)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-5)
    images = pixels(20, shape)
    noise = generation.noise(ours, 0, 20, seed=0, purpose="test")
    for drawn in (None, noise):
        one = generation.reconstruct(ours, images, noise=drawn).astype(int)
        other = generation.reconstruct(theirs, images, noise=drawn)
        assert np.abs(one - other).max() <= 1
        assert (one != other).sum() <= one.size / 10_000
    for row, same in zip(
        generation.score(ours, images, noise),
        generation.score(theirs, images, noise),
        strict=True,
    ):
        assert row == pytest.approx(same, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("likelihood", sorted({*get_args(Likelihood)} - {"logistic-mixture"}))
def test_a_pixel_has_the_probability_and_mean_that_torch_gives_it(likelihood: Likelihood) -> None:
    """Against the functions that train, in float64, far out and at black and white too."""
    x, output = np.meshgrid(np.arange(256) / 255, np.concatenate([np.linspace(-40, 40, 81), [0.3]]))
    for log_scale in (-9.0, -2.0, 1.0):
        scale = torch.tensor(log_scale, dtype=torch.float64)
        theirs, ours = LIKELIHOODS[likelihood], PIXELS[likelihood]
        wanted = theirs.log_prob(torch.from_numpy(x), torch.from_numpy(output), scale).numpy()
        found = ours.log_prob(x.astype(np.float32), output.astype(np.float32), log_scale)
        np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)
        wanted = theirs.mean(torch.from_numpy(output), scale).numpy()
        found = ours.mean(output.astype(np.float32), log_scale)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", [MLP, CONV], ids=["mlp", "conv"])
def test_no_bit_depends_on_the_batch(arch: dict[str, Any]) -> None:
    config = ModelConfig(image_shape=(1, 28, 28), latent_dim=6, **arch)
    runner = numpy_of(lively(config))
    images = pixels(70, config.image_shape)
    latents = generation.draw(runner, 70, seed=0)
    together, decoded = runner.encode(as_float(images)), runner.decode(latents)
    for part in (slice(0, 1), slice(31, 34), slice(69, 70), slice(5, 50)):
        for whole, alone in zip(together, runner.encode(as_float(images[part])), strict=True):
            assert np.array_equal(whole[part], alone)
        assert np.array_equal(decoded[part], runner.decode(latents[part]))


@pytest.mark.parametrize("arch", [MLP, CONV], ids=["mlp", "conv"])
def test_the_shapes_are_those_of_the_model_in_torch(arch: dict[str, Any]) -> None:
    for likelihood in ("bernoulli", "logistic"):
        config = ModelConfig(image_shape=(3, 17, 40), likelihood=likelihood, **arch)
        model = build(config, seed=0)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert network.of(config).shapes() == expected
        assert network.count_parameters(config) == sum(p.numel() for p in model.parameters())


BLOCKED = """
import sys
import threading
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "matplotlib", "sklearn"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Blocked())
from vaecli.cli import app
code = app.run(sys.argv[1:])
sys.stdout.flush()
sys.exit(code)
"""


def without_torch(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own that cannot import torch."""
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "-n", "5", "--temperature", "0.5"),
        ("sample", "-n", "5", "-o", "folder", "--json"),
        ("sample", "-o", "array.npy"),
        ("sample", "--interpolate", "0", "1", "-o", "morph.gif"),
        ("sample", "--interpolate", "in.png", "1", "--path", "linear"),
        ("sample", "--traverse", "--around", "2"),
        ("sample", "--manifold"),
        ("sample", "--latents", "latents.npy"),
        ("reconstruct", "in.png"),
        ("reconstruct", "in.png", "other.jpg", "--json", "--sample", "--compare", "-o", "out"),
        ("reconstruct", "in.png", "--grid", "grid.png", "--preview"),
        ("reconstruct",),
        ("reconstruct", "--sample", "-o", "-"),
    ],
    ids=" ".join,
)
def test_no_command_of_these_imports_torch(
    arguments: tuple[str, ...], trained: Path, data_dir: Path
) -> None:
    Image.fromarray(pixels(1, (28, 28))[0]).save("in.png")
    Image.fromarray(pixels(1, (50, 70, 3))[0]).save("other.jpg")
    np.save("latents.npy", np.zeros((3, 8)))
    done = without_torch(*arguments, "-m", trained, "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr


def test_reconstruct_imports_nothing_that_draws(trained: Path) -> None:
    """It took 12 of 250 ms, and 3 MB."""
    Image.fromarray(pixels(1, (28, 28))[0]).save("in.png")
    script = BLOCKED.replace('"sklearn"', '"numpy.random"').replace('.partition(".")[0]', "")
    command = [sys.executable, "-c", script, "reconstruct", "in.png", "-m", str(trained)]
    assert subprocess.run(command, check=False).returncode == 0
    assert subprocess.run([*command, "--sample", "-f"], check=False).returncode != 0


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        ((), False),
        (("--latents", "latents.npy"), False),
        (("--interpolate", "in.png", "in.png"), True),
        (("--prior", "gmm"), True),
        (("--device", "cpu", "-n", "3"), False),
    ],
)
def test_sample_holds_the_encoder_only_where_it_encodes(
    arguments: tuple[str, ...],
    whole: bool,
    vaecli: Vaecli,
    trained: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Image.fromarray(pixels(1, (28, 28))[0]).save("in.png")
    np.save("latents.npy", np.zeros((3, 8)))
    asked, read = list[bool](), weights.read_model

    def noticed(path: Path, *, without: str | None = None) -> weights.ModelFile:
        asked.append(without is None)
        return read(path, without=without)

    monkeypatch.setattr(weights, "read_model", noticed)
    done = vaecli("sample", *arguments, "-m", trained, "--data-dir", data_dir)
    assert done.code == 0, done.err
    assert asked == [whole]


def test_torch_gets_the_whole_model_where_numpy_would_be_slow(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vaecli("sample", "-n", "4", "-m", trained, "-o", "numpy.npy").code == 0
    monkeypatch.setattr(inputs, "TORCH_IS_FASTER", 1)
    done = vaecli("sample", "-n", "4", "-m", trained, "-v", "-o", "torch.npy")
    assert done.code == 0, done.err
    assert "computed in torch" in done.err
    drawn = [np.load(f"{name}.npy").astype(int) for name in ("numpy", "torch")]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_hostile_files_are_refused_without_torch(trained: Path) -> None:
    """Every weights and latents file of the corpus, as the suite expects it, in one process."""
    corpus = Path(__file__).parent / "corpus"
    with (corpus / "expected.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith("weights/")]
    assert len(rows) > 50
    commands = [["sample", "-m", str(corpus / row["file"]), "-n", "1", "-f"] for row in rows]
    script = BLOCKED.partition("code = ")[0] + (
        "import contextlib, io, json\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        code = app.run(arguments)\n"
        "    print(json.dumps([code, said.getvalue()]), file=sys.__stderr__)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, check=True)
    results = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(results) == len(rows)
    for row, (code, said) in zip(rows, results, strict=True):
        assert code == int(row["exit"]), row
        assert row["words"] in said, row
    Path("bad.png").write_bytes(b"no picture")
    bad = without_torch("reconstruct", "bad.png", "-m", trained)
    assert bad.returncode == 3
    assert b"bad.png" in bad.stderr


def test_a_folder_comes_out_in_order_whatever_the_threads(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches in threads give what one at a time gives; bad inputs among them are named."""
    Path("in").mkdir()
    for number, image in enumerate(pixels(75, (28, 28))):
        Image.fromarray(image).save(f"in/{number:03d}.png")
    Path("in/040.png").write_bytes(b"no picture")
    for folder, cores in (("many", 4), ("one", 1)):
        monkeypatch.setattr(threads, "cores", lambda cores=cores: cores)
        done = vaecli("reconstruct", "in", "-m", trained, "-o", folder, "--sample", "--seed", "3")
        assert done.code == 3
        assert "1 of 75 inputs failed" in done.err
        names = [f"{folder}/{number:03d}.recon.png" for number in range(75) if number != 40]
        assert done.out.splitlines() == [str(Path(name)) for name in names]
    alone = vaecli(
        "reconstruct", "in/000.png", "-m", trained, "-o", "a.png", "--sample", "--seed=3"
    )
    assert alone.code == 0
    for name in names:
        same = Path("many", Path(name).name).read_bytes()
        assert Path(name).read_bytes() == same
    assert Path("a.png").read_bytes() == Path("one/000.recon.png").read_bytes()


def test_threads_are_as_many_as_asked_for(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several batches by as many threads as --threads says; by none beside where that is one."""
    made: list[int] = []

    class Executor(ThreadPoolExecutor):
        def __init__(self, workers: int) -> None:
            made.append(workers)
            super().__init__(workers)

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", Executor)
    few = generation.FEW_BATCHES
    for batches, asked, expected in ((few + 1, 1, []), (few + 1, 3, [3]), (few, 3, [])):
        made.clear()
        count = batches * generation.BATCH_SIZE
        done = vaecli("sample", "-m", trained, "-n", count, "--threads", asked, "-o", "a.npy", "-f")
        assert done.code == 0, done.err
        assert made == expected


def test_work_in_threads_ends_with_its_first_error() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise OSError(number)
        return -number

    results = threads.in_order(work, range(100), workers=3)
    seen: list[tuple[int, int]] = []
    with pytest.raises(OSError, match="5"):
        seen.extend(results)
    assert list(threads.in_order(work, range(5), workers=3)) == [(n, -n) for n in range(5)]


def test_numpy_gets_one_thread_and_the_variables_come_back() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "7"}
    code = (
        "import os, sys\n"
        "from vaecli.system import numpy_threads\n"
        "assert 'numpy' not in sys.modules\n"
        "numpy_threads.import_numpy()\n"
        "import numpy\n"
        "a = numpy.ones((900, 900), 'f4'); a @ a\n"
        "tasks = len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1\n"
        "print(tasks, os.environ['OPENBLAS_NUM_THREADS'], 'MKL_NUM_THREADS' in os.environ)\n"
    )
    environment.pop("MKL_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["1", "7", "False"]


def test_the_model_that_comes_with_vaecli(vaecli: Vaecli) -> None:
    """Named by itself, whatever lies in the folder; a path of that name is a path."""
    assert BUNDLED_FILE.stat().st_size < 1_400_000
    for name in ("a", "b"):
        assert vaecli("sample", "-m", "digits", "-n", "3", "-o", f"{name}.npy").code == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    drawn = np.load("a.npy")
    assert drawn.shape == (3, 1, 28, 28)
    assert 10 < drawn.mean() < 90
    Path("digits").mkdir()
    assert vaecli("sample", "-m", "digits", "-n", "3", "-o", "c.npy").code == 0
    missing = vaecli("sample", "-m", "./digits", "-n", "3")
    assert missing.code == 4
    assert "-m digits comes with vaecli" in vaecli("sample").err


def test_the_bundled_model_is_as_good_as_the_recorded_command_makes_it(
    vaecli: Vaecli, data_dir: Path
) -> None:
    """Its digest, and the loss that its training reported."""
    about = json.loads((Path(__file__).parents[1] / "benchmarks/results/bundled.json").read_text())
    from vaecli.runs import weights

    found = weights.read_model(BUNDLED_FILE)
    assert weights.digest(found.tensors) == about["sha256"]
    judged = vaecli("eval", "-m", "digits", "--json")
    assert judged.code == 0, judged.err
    value = json.loads(judged.out)
    assert value["n_images"] == about["n_images"]
    assert value["loss"] == pytest.approx(about["loss"], abs=0.2)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_bar_on_the_terminal_leaves_the_pipe_alone(trained: Path) -> None:
    """With stderr at a terminal and stdout in a pipe, every path goes into the pipe."""
    Path("in").mkdir()
    for number, image in enumerate(pixels(70, (28, 28))):
        Image.fromarray(image).save(f"in/{number:02d}.png")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "vaecli", "reconstruct", "in", "-m", str(trained), "-o", "out"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = child.communicate()
    os.close(ours)
    assert child.returncode == 0
    assert out.decode().split() == [
        str(Path(f"out/{number:02d}.recon.png")) for number in range(70)
    ]
    assert b"reconstructing" in shown
    assert b"recon.png" not in shown


def test_torch_computes_in_the_thread_that_asks(vaecli: Vaecli, trained: Path) -> None:
    """TF32 is a setting of the whole process: what one thread sets, another must not keep."""
    model = build(ModelConfig(image_shape=(1, 8, 8), **MLP), seed=0)
    decoder, seen = model.decoder.forward, set[int]()

    def watched(latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        seen.add(threading.get_ident())
        return decoder(latents, labels)

    model.decoder.forward = watched  # type: ignore[method-assign]
    runner = TorchRunner(model)
    count = (1 + generation.FEW_BATCHES) * generation.BATCH_SIZE
    latents = generation.draw(runner, count, seed=0)
    several = generation.decode(runner, latents)
    assert seen == {threading.get_ident()}
    assert np.abs(several - generation.decode(numpy_of(model), latents).astype(int)).max() <= 1
