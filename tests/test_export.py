from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vaecli as package
from conftest import REPOSITORY, Vaecli
from vaecli.config import ModelConfig
from vaecli.errors import ExitCode, VaecliError
from vaecli.export import half, onnx, parity, parts, pt2
from vaecli.model.vae import VAE, build
from vaecli.runs import weights
from vaecli.system import extras

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in extras.EXTRAS["onnx"]),
    reason="needs vaecli[onnx]",
)
FORMATS = [pytest.param(onnx, marks=needs_onnx, id="onnx"), pytest.param(pt2, id="pt2")]
# the first use imports the exporter, seconds on a busy machine
pytestmark = pytest.mark.timeout(300)


def colour_model() -> VAE:
    config = ModelConfig(
        image_shape=(3, 6, 5),
        hidden=(16, 8),
        latent_dim=4,
        activation="gelu",
        likelihood="logistic",
    )
    return build(config, seed=0).eval()


def test_a_loose_file_serves_every_command(
    vaecli: Vaecli, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    outcome = vaecli("export", "-m", trained, "--format", "safetensors")
    assert outcome.out == "run.safetensors\n"
    loose = tmp_path / "run.safetensors"
    assert loose.read_bytes() == (trained / "model.safetensors").read_bytes()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("black.png")
    data = ["--data-dir", data_dir]
    whole = vaecli("eval", "-m", trained, "--json", *data)
    part = vaecli("eval", "-m", loose, "-d", "mnist", "--split", "test", "--json", *data)
    assert json.loads(whole.out)["loss"] == json.loads(part.out)["loss"]
    assert vaecli("reconstruct", "black.png", "-m", loose).code == 0
    assert vaecli("sample", "-m", loose).code == 0
    again = ("--format", "safetensors", "-o", "again.safetensors")
    assert vaecli("export", "-m", loose, *again).code == 0
    assert Path("again.safetensors").read_bytes() == loose.read_bytes()
    unnamed = vaecli("eval", "-m", loose)
    assert unnamed.code == ExitCode.USAGE
    assert "--data" in unnamed.err


def test_existing_output_and_json(vaecli: Vaecli, trained: Path) -> None:
    command = ("export", "-m", trained, "--format", "safetensors", "-o", "a.safetensors")
    assert vaecli(*command).code == 0
    assert vaecli(*command).code == ExitCode.USAGE
    result = json.loads(vaecli(*command, "-f", "--json").out)
    assert result["bytes"] == Path("a.safetensors").stat().st_size
    assert vaecli("export", "-m", trained, "--format", "pickle").code == ExitCode.USAGE


def test_half_is_half_the_size_and_says_what_it_costs(
    vaecli: Vaecli, trained: Path, data_dir: Path
) -> None:
    command = ("export", "-m", trained, "--format", "safetensors", "--half", "--json")
    result = json.loads(vaecli(*command).out)
    whole = (trained / "model.safetensors").stat().st_size
    assert 0.5 < result["bytes"] / whole < 0.52
    exact, rounded = package.load(trained), package.load("run.safetensors")
    latents = torch.randn(100, 8, generator=torch.Generator().manual_seed(7))
    change = (exact.decode(latents) - rounded.decode(latents)).abs().max()
    assert 0 < change < 2 * result["difference"] < 0.01
    for mine, theirs in zip(exact.vae.parameters(), rounded.vae.parameters(), strict=True):
        assert torch.equal(mine.half().float(), theirs)


def test_a_weight_beyond_fp16_is_refused() -> None:
    model = colour_model()
    with torch.no_grad():
        model.decoder.output.bias[3] = 7e4
    with pytest.raises(VaecliError, match=r"decoder\.output\.bias.*65,504"):
        half.round_to_half(model)


def test_half_tensors_without_the_word_are_refused(tmp_path: Path) -> None:
    model = colour_model()
    state = {name: array.astype(np.float16) for name, array in model.weights().items()}
    (tmp_path / "a.safetensors").write_bytes(weights.encode_model(model.config, state))
    with pytest.raises(VaecliError, match="float16 instead of"):
        weights.read_model(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_computes_what_the_model_does_at_any_batch_size(kind: ModuleType) -> None:
    model = colour_model()
    encoder, decoder = parts.split(model)
    image, latent = torch.rand(5, 3, 6, 5), torch.randn(5, 4)
    with torch.inference_mode():
        wanted = [*model.encoder(image), package.Model(model).decode(latent)]
    files = [kind.encode(part) for part in (encoder, decoder)]
    runners = [kind.load(data) for data in files]
    for count in (1, 3, 5):
        found = [*runners[0](image[:count]), *runners[1](latent[:count])]
        for mine, theirs in zip(wanted, found, strict=True):
            torch.testing.assert_close(theirs, mine[:count], atol=2e-6, rtol=1e-5)
    # nothing of the encoder in the decoder's file, and the other way round
    elements = sum(p.numel() for p in model.parameters())
    assert sum(map(len, files)) < 4 * elements + 60_000
    assert next(model.parameters()).requires_grad


@needs_onnx
def test_onnx_is_the_default_and_its_snippet_runs(
    vaecli: Vaecli, trained: Path, tmp_path: Path
) -> None:
    import onnx as library

    outcome = vaecli("export", "-m", trained)
    names = ["run-onnx/encoder.onnx", "run-onnx/decoder.onnx"]
    assert outcome.out.split() == names, outcome.err
    assert sorted(path.name for path in Path("run-onnx").iterdir()) == [
        "decoder.onnx",
        "encoder.onnx",
    ]
    for name in names:
        proto = library.load(name)
        library.checker.check_model(proto, full_check=True)
        kinds = {node.op_type for node in proto.graph.node}
        assert not [kind for kind in kinds if "Random" in kind or kind in ("Dropout", "Bernoulli")]
        assert all(not tensor.external_data for tensor in proto.graph.initializer)
        for value in (*proto.graph.input, *proto.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        about = {entry.key: entry.value for entry in proto.metadata_props}
        assert about["vaecli_version"] == package.__version__
        assert about["value_range"] == "[0, 1]"
        assert json.loads(about["config"])["latent_dim"] == 8
        assert str(REPOSITORY).encode() not in Path(name).read_bytes()
        assert b"site-packages" not in Path(name).read_bytes()
    snippet = outcome.err[outcome.err.index("import numpy") :]
    values: dict[str, object] = {}
    exec(snippet, values)
    image = values["image"]
    assert isinstance(image, np.ndarray)
    expected = package.load(trained).decode(torch.zeros(1, 8))
    np.testing.assert_allclose(image, expected, atol=1e-6)
    assert isinstance(values["log_variance"], np.ndarray)


@needs_onnx
def test_onnx_leaves_the_home_as_it_was(trained: Path, tmp_path: Path) -> None:
    """onnxruntime has a telemetry, written in C++: only the system sees what that does."""
    strace = shutil.which("strace")
    calls = tmp_path / "calls"
    watch = [strace, "-f", "-e", "trace=connect", "-o", str(calls)] if strace else []
    command = [sys.executable, "-m", "vaecli", "export", "-m", str(trained), "-o", "onnx"]
    subprocess.run([*watch, *command], check=True, capture_output=True)
    home = Path.home()
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert not (home / ".cache").exists()
    if strace and calls.exists():
        assert "AF_INET" not in calls.read_text()


def test_pt2_in_parts_and_by_default_name(vaecli: Vaecli, trained: Path) -> None:
    command = ("export", "-m", trained, "--format", "pt2", "--part", "decoder")
    outcome = vaecli(*command)
    assert outcome.out == "run-pt2/decoder.pt2\n"
    assert "vaecli.json" in str(zipfile.ZipFile("run-pt2/decoder.pt2").namelist())
    values: dict[str, Tensor] = {}
    exec(outcome.err[outcome.err.index("import torch") :], {}, values)
    expected = package.load(trained).decode(torch.zeros(1, 8))
    torch.testing.assert_close(values["image"], expected, atol=1e-6, rtol=0)
    content = Path("run-pt2/decoder.pt2").read_bytes()
    assert str(REPOSITORY).encode() not in content
    assert b"site-packages" not in content
    assert vaecli(*command).out == "run-pt2-2/decoder.pt2\n"
    # the other part may join the first, but nothing is replaced
    encoder = ("export", "-m", trained, "--format", "pt2", "--part", "encoder", "-o", "run-pt2")
    report = json.loads(vaecli(*encoder, "--json").out)
    assert report["files"][0]["difference"] < 1e-5
    assert vaecli(*encoder).code == ExitCode.USAGE
    Path("file").touch()
    taken = vaecli(*command, "-o", "file")
    assert taken.code == ExitCode.USAGE
    assert "makes a folder" in taken.err


def test_the_decoder_on_stdout(capfdbinary: pytest.CaptureFixture[bytes], trained: Path) -> None:
    from vaecli.cli import app

    command = ["export", "-m", str(trained), "--format", "pt2", "--part", "decoder", "-o", "-"]
    assert app.run(command) == 0
    module = torch.export.load(io.BytesIO(capfdbinary.readouterr().out)).module()
    assert module(torch.zeros(2, 8)).shape == (2, 1, 28, 28)


def test_an_export_that_differs_is_not_kept(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_load = pt2.load

    def wrong(data: bytes) -> parity.Runner:
        run = true_load(data)
        return lambda batch: [output + 1e-3 for output in run(batch)]

    monkeypatch.setattr(pt2, "load", wrong)
    command = ("export", "-m", trained, "--format", "pt2", "--part", "decoder", "-o", "out")
    failed = vaecli(*command)
    assert failed.code == ExitCode.FAILURE
    assert "1.00e-03" in failed.err
    assert not Path("out").exists()
    assert vaecli(*command, "--tolerance", "0.01").code == 0
    assert vaecli(*command, "--force", "--no-verify").code == 0


@pytest.mark.parametrize("slip", ["value", "nan", "frozen batch"])
def test_a_difference_is_seen(slip: str) -> None:
    encoder = parts.split(colour_model())[0]

    def run(batch: Tensor) -> Sequence[Tensor]:
        mean, log_variance = encoder.module(batch)
        if slip == "frozen batch":
            return mean[:1], log_variance[:1]
        log_variance[-1, -1] += 0.5 if slip == "value" else float("nan")
        return mean, log_variance

    assert parity.difference(encoder, encoder.module) == 0
    found = parity.difference(encoder, run)
    assert found == pytest.approx(0.5, abs=1e-5) if slip == "value" else found == float("inf")
    with pytest.raises(VaecliError, match="encoder"):
        parity.require_parity(encoder, found, 0.4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "onnx", "--half"),
        ("--format", "html", "--half"),
        ("--format", "html", "--part", "decoder"),
        ("--format", "safetensors", "--tolerance", "1"),
        ("--format", "safetensors", "--no-verify"),
        ("--format", "pt2", "--no-verify", "--tolerance", "1"),
        ("--format", "pt2", "--tolerance", "-1"),
        ("--format", "pt2", "--tolerance", "nan"),
        ("--format", "pt2", "-o", "-"),
        ("-o", "page.html"),
        ("--format", "pt2", "-o", "model.safetensors"),
        ("--format", "html", "-o", "-", "--json"),
    ],
)
def test_contradictions(vaecli: Vaecli, trained: Path, arguments: tuple[str, ...]) -> None:
    assert vaecli("export", "-m", trained, *arguments).code == ExitCode.USAGE
    assert list(Path().iterdir()) == []


def test_missing_packages_are_named_with_the_line_that_installs_them(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments, extra, packages in (
        (("export", "-m", trained), "onnx", extras.EXTRAS["onnx"]),
        (("eval", "-m", "hf://someone/something"), "hub", ("huggingface_hub",)),
    ):
        outcome = vaecli(*arguments)
        assert outcome.code == ExitCode.ENVIRONMENT
        assert f"vaecli[{extra}]" in outcome.err
        assert all(name in outcome.err for name in packages)
        assert "install" in outcome.err or "inject" in outcome.err
    assert list(Path().iterdir()) == []


def test_the_install_line_is_that_of_what_made_the_environment(tmp_path: Path) -> None:
    assert extras.install_line("onnx", tmp_path).endswith('-m pip install "vaecli[onnx]"')
    assert extras.install_line("onnx", tmp_path, active=True) == 'pip install "vaecli[onnx]"'
    (tmp_path / "pyvenv.cfg").write_text("home = /usr\nuv = 0.9\n")
    assert extras.install_line("hub", tmp_path).startswith("uv pip install --python")
    assert extras.install_line("hub", tmp_path, active=True) == 'uv pip install "vaecli[hub]"'
    (tmp_path / "pipx_metadata.json").touch()
    line = extras.install_line("onnx", tmp_path)
    assert line == "pipx inject vaecli onnx onnxscript onnxruntime"


def test_the_extras_are_those_of_the_package() -> None:
    import re
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    for extra, packages in extras.EXTRAS.items():
        names = [re.split(r"[><=]", requirement)[0] for requirement in declared[extra]]
        assert names == [extras.PROJECTS.get(package, package) for package in packages]
