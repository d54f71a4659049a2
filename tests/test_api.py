from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vaecli
from test_layers import modules_after
from vaecli.errors import DataError, ModelError, UsageError
from vaecli.training.events import EpochEnd, Event, Finished, Started


def test_importing_the_package_is_light() -> None:
    assert "torch" not in modules_after("import vaecli; vaecli.__version__")


def test_load_encode_decode_reconstruct_sample(trained: Path) -> None:
    model = vaecli.load(trained)
    assert (model.image_shape, model.latent_dim) == ((1, 28, 28), 8)
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    mean, log_variance = model.encode(images)
    assert mean.shape == log_variance.shape == (3, 8)
    as_floats = model.encode(images.numpy() / 255)[0]
    torch.testing.assert_close(mean, as_floats)
    decoded = model.decode(mean)
    assert decoded.shape == (3, 1, 28, 28)
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    torch.testing.assert_close(model.reconstruct(images), decoded)
    assert not torch.equal(model.reconstruct(images, sample=True), decoded)
    assert torch.equal(model.sample(2, seed=1), model.sample(2, seed=1))
    assert not torch.equal(model.sample(2, seed=1), model.sample(2, seed=2))
    alone = vaecli.load(trained / "model.safetensors")
    assert torch.equal(alone.decode(mean), decoded)


def test_wrong_input_is_named(trained: Path) -> None:
    model = vaecli.load(trained)
    for images in (np.zeros((28, 28)), np.zeros((1, 3, 28, 28)), np.full((1, 1, 28, 28), 2.0)):
        with pytest.raises(DataError, match="images"):
            model.encode(images)
    with pytest.raises(DataError, match="latents"):
        model.decode(np.zeros((1, 3)))
    with pytest.raises(UsageError, match="epoch: unknown setting"):
        next(vaecli.train("mnist", epoch=1))
    codes = model.encode(np.zeros((1, 1, 28, 28)))[0]
    torch.nn.Linear(8, 2)(codes).sum().backward()  # codes can be trained on
    with pytest.raises(ModelError, match="no model"):
        vaecli.load("nowhere")


def test_train_yields_events(tmp_path: Path, data_dir: Path) -> None:
    def events(latent_dim: int) -> list[Event]:
        return list(
            vaecli.train(
                "mnist",
                output=tmp_path / "run",
                data_dir=data_dir,
                epochs=1,
                hidden=(16,),
                latent_dim=latent_dim,
                patience=None,  # as if it were not given
            )
        )

    first = events(2)
    assert isinstance(first[0], Started)
    assert isinstance(first[-2], Finished)
    assert first[-2].path == tmp_path / "run"
    again = events(2)
    assert not any(isinstance(event, EpochEnd) for event in again)
    with pytest.raises(UsageError, match="latent_dim"):
        events(3)
