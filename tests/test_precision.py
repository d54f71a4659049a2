"""bf16 products while training: near float32, repeatable, resumed exactly, and never elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import TRAIN, Vaecli
from test_resume import same, state, stop_at
from test_training import DATASET, finish, make_run, rows
from vaecli.config import ModelConfig
from vaecli.errors import EnvironmentFailure, ExitCode, UsageError
from vaecli.evaluation.evaluate import evaluate
from vaecli.model.precision import autocast, cpu_has_bf16, require
from vaecli.model.vae import build
from vaecli.runs.load import load_model
from vaecli.training.objective import objective

CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(
    not cpu_has_bf16(), reason="this processor does not support bfloat16 products"
)


@needs_bf16
def test_only_products_lose_digits() -> None:
    """Of the model, about 8 bits are left; sums, the loss and what the weights get are float32."""
    config = ModelConfig(image_shape=(1, 28, 28))
    model = build(config, seed=0)
    images, noise = torch.rand(64, 1, 28, 28), torch.randn(64, 20)
    exact = objective(model, images, noise, 1.0, 0.0)
    with autocast("bf16", CPU):
        parameters, mean, log_variance = model(images, noise)
        short = objective(model, images, noise, 1.0, 0.0)
    short.objective.sum().backward()
    tensors = [parameters, mean, log_variance, *short, *(p.grad for p in model.parameters())]
    assert {tensor.dtype for tensor in tensors if tensor is not None} == {torch.float32}
    error = float((short.objective / exact.objective - 1).detach().abs().max())
    assert 1e-7 < error < 2**-8
    with autocast("fp32", CPU):
        assert torch.equal(objective(model, images, noise, 1.0, 0.0).objective, exact.objective)


@needs_bf16
def test_training_is_near_float32_and_evaluated_in_it(tmp_path: Path) -> None:
    runs = {}
    for precision in ("fp32", "bf16"):
        runs[precision] = make_run(tmp_path / precision, epochs=3, precision=precision)
        finish(runs[precision])
    exact, short = (rows(runs[precision])[-1] for precision in ("fp32", "bf16"))
    assert exact["train_loss"] != short["train_loss"]
    assert float(short["test_loss"]) == pytest.approx(float(exact["test_loss"]), rel=0.02)
    model = load_model(str(runs["bf16"].path)).model
    seed = runs["bf16"].config.training.seed
    # outside of training nothing is left of it: the recorded test loss is float32's
    again = evaluate(model, DATASET.test, seed=seed).loss
    assert again == pytest.approx(float(short["test_loss"]), abs=1e-6)


@needs_bf16
def test_resumed_exactly(tmp_path: Path) -> None:
    straight = make_run(tmp_path / "straight", epochs=2, precision="bf16")
    finish(straight)
    broken = make_run(tmp_path / "broken", epochs=2, precision="bf16")
    stop_at(broken, 3, DATASET)
    finish(broken)
    assert same(state(broken), state(straight))


def test_what_a_device_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require("fp32", CPU)
    with pytest.raises(UsageError, match="only CUDA"):
        require("tf32", CPU)
    monkeypatch.setattr("vaecli.model.precision.cpu_has_bf16", lambda: False)
    with pytest.raises(EnvironmentFailure, match="not support bfloat16"):
        require("bf16", CPU)


def test_a_torch_without_onednn_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaecli.model.precision.torch.backends.mkldnn.is_available", lambda: False)
    monkeypatch.delattr("vaecli.model.precision.torch.ops.mkldnn", raising=False)
    assert not cpu_has_bf16()


def test_refused_before_any_work(vaecli: Vaecli, data_dir: Path, tmp_path: Path) -> None:
    arguments = (*TRAIN, "--data-dir", data_dir, "-o", tmp_path / "run", "--device", "cpu")
    refused = vaecli(*arguments, "--precision", "tf32")
    assert refused.code == ExitCode.USAGE
    assert "Choose fp32 or bf16" in refused.err
    assert not (tmp_path / "run").exists()
