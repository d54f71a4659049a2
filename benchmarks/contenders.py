"""The training loops that `speed.py` and `quality.py` compare, one epoch per line of stdin.

Every contender but the recipes trains the same network (784-400-20-400-784, ReLU, Bernoulli) with
Adam at a constant 1e-3 and batches of 128, test pass included, and answers each line with one line
of JSON: `{"seconds": ..., "test_loss": ...}`, the wall time of one epoch and its test loss in nats
per image.

    python benchmarks/contenders.py NAME DATA_DIR THREADS DEVICE
"""

from __future__ import annotations

import gzip
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

BATCH, RATE, HIDDEN, LATENT = 128, 1e-3, 400, 20


def main() -> None:
    name, folder, threads, device = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    epochs = CONTENDERS[name](folder, threads, device)
    for _ in sys.stdin:
        began = time.perf_counter()
        loss = next(epochs)
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "test_loss": loss, "peak_memory": memory}
        print(json.dumps(answer), flush=True)


def vaecli_loop(
    folder: Path, threads: int, device: str, precision: str = "fp32"
) -> Iterator[float | None]:
    """The loop of the product, doing the same work as the others, commits to disk included."""
    same = {"batch_size": BATCH, "lr": RATE, "schedule": "constant", "output_bias": "zero"}
    return train(folder, threads, device, epochs=1000, precision=precision, **same)


def recipe(
    folder: Path, threads: int, device: str, epochs: int, precision: str = "fp32"
) -> Iterator[float | None]:
    """`vaecli train --epochs N`, with its default recipe."""
    return train(folder, threads, device, epochs=epochs, precision=precision)


def train(folder: Path, threads: int, device: str, **settings: Any) -> Iterator[float | None]:
    """Test losses of `vaecli.train`."""
    import torch

    import vaecli
    from vaecli.training.loop import EpochEnd

    torch.set_num_threads(threads)
    # waiting for its turn makes an epoch look long enough to be committed after; the disk is left
    # out, which in a training alone costs what commit_cost.py measures
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    output = Path(tempfile.mkdtemp(dir=memory)) / "run"
    events = vaecli.train("mnist", data_dir=folder, output=output, device=device, **settings)
    return (event.metrics.test_loss for event in events if isinstance(event, EpochEnd))


def vaecli_bf16(folder: Path, threads: int, device: str) -> Iterator[float | None]:
    """The same with --precision bf16."""
    return vaecli_loop(folder, threads, device, "bf16")


def textbook(
    folder: Path, threads: int, device: str, compiled: bool = False
) -> Iterator[float | None]:
    """The script everybody copies: DataLoader, ToTensor, `.item()` each step."""
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(784, HIDDEN)
            self.mean = nn.Linear(HIDDEN, LATENT)
            self.log_variance = nn.Linear(HIDDEN, LATENT)
            self.up = nn.Linear(LATENT, HIDDEN)
            self.out = nn.Linear(HIDDEN, 784)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            h = functional.relu(self.hidden(x.view(-1, 784)))
            mean, log_variance = self.mean(h), self.log_variance(h)
            std = torch.exp(0.5 * log_variance)
            z = mean + torch.randn_like(std) * std
            return torch.sigmoid(self.out(functional.relu(self.up(z)))), mean, log_variance

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        decoded, mean, log_variance = net(x)
        bce = functional.binary_cross_entropy(decoded, x.view(-1, 784), reduction="sum")
        return bce - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())

    if compiled:  # the best that one more line makes of it
        loss_of = torch.compile(loss_of)
    sets = [
        datasets.MNIST(folder, train=train, download=True, transform=transforms.ToTensor())
        for train in (True, False)
    ]
    train_loader = DataLoader(sets[0], batch_size=BATCH, shuffle=True)
    test_loader = DataLoader(sets[1], batch_size=BATCH)
    net = Net().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    while True:
        train_loss = 0.0
        for x, _ in train_loader:
            optimizer.zero_grad()
            loss = loss_of(x.to(device))
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
        with torch.no_grad():
            yield sum(loss_of(x.to(device)).item() for x, _ in test_loader) / len(sets[1])


def pythae(folder: Path, threads: int, device: str) -> Iterator[float | None]:
    """Pythae's own trainer, arrays in memory."""
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from torch import nn

    torch.set_num_threads(threads)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.hidden(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            layers = nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784), nn.Sigmoid()
            self.layers = nn.Sequential(*layers)

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).view(-1, 1, 28, 28))

    train, test = (
        BaseDataset(torch.from_numpy(images).float() / 255, torch.zeros(len(images)))
        for images in arrays(folder)
    )
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    trainer = BaseTrainer(
        VAE(config, Encoder(), Decoder()),
        train,
        test,
        BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_epochs=1000,
            no_cuda=True,
        ),
    )
    trainer.prepare_training()
    epoch = 0
    while True:
        epoch += 1
        trainer.train_step(epoch)
        yield float(trainer.eval_step(epoch))


def jax_loop(folder: Path, threads: int, device: str) -> Iterator[float | None]:
    """A jitted step with optax, arrays in memory (the GPU's, if any): the strongest peer."""
    import os

    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # others have to fit beside it
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    def layer(key: jax.Array, rows: int, columns: int) -> dict[str, jax.Array]:
        bound = rows**-0.5
        one, two = jax.random.split(key)
        weight = jax.random.uniform(one, (rows, columns), minval=-bound, maxval=bound)
        return {"w": weight, "b": jax.random.uniform(two, (columns,), minval=-bound, maxval=bound)}

    sizes = {"h": (784, HIDDEN), "m": (HIDDEN, LATENT), "v": (HIDDEN, LATENT)}
    sizes |= {"u": (LATENT, HIDDEN), "o": (HIDDEN, 784)}
    keys = jax.random.split(jax.random.key(0), len(sizes))
    parameters = {n: layer(k, *s) for (n, s), k in zip(sizes.items(), keys, strict=True)}
    optimizer = optax.adam(RATE)
    state = optimizer.init(parameters)

    def loss_of(p: dict[str, dict[str, jax.Array]], x: jax.Array, key: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ p["h"]["w"] + p["h"]["b"])
        mean, log_variance = h @ p["m"]["w"] + p["m"]["b"], h @ p["v"]["w"] + p["v"]["b"]
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        logits = jax.nn.relu(z @ p["u"]["w"] + p["u"]["b"]) @ p["o"]["w"] + p["o"]["b"]
        distortion = (jax.nn.softplus(logits) - x * logits).sum()
        return distortion + 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum()

    @jax.jit
    def step(p, s, pixels, key):  # type: ignore[no-untyped-def]
        x = pixels.astype(jnp.float32) / 255
        loss, gradient = jax.value_and_grad(lambda q: loss_of(q, x, key) / len(x))(p)
        updates, s = optimizer.update(gradient, s, p)
        return optax.apply_updates(p, updates), s, loss

    test_loss = jax.jit(lambda p, x, key: loss_of(p, x.astype(jnp.float32) / 255, key))
    train, test = (images.reshape(len(images), 784) for images in arrays(folder))
    if device == "cuda":
        train, test = jax.device_put(train), jax.device_put(test)
    rng, epoch = np.random.default_rng(0), 0
    # compiling is not counted: both batch shapes are seen before the first epoch
    for count in (BATCH, len(train) % BATCH or BATCH):
        step(parameters, state, train[:count], jax.random.key(0))
    while True:
        epoch += 1
        order, key = rng.permutation(len(train)), jax.random.key(epoch)
        for start in range(0, len(train), BATCH):
            chosen = train[order[start : start + BATCH]]
            parameters, state, _ = step(parameters, state, chosen, jax.random.fold_in(key, start))
        total = 0.0
        for start in range(0, len(test), 500):
            total += float(test_loss(parameters, test[start : start + 500], key))
        yield total / len(test)


def products(
    folder: Path, threads: int, device: str, precision: str = "float32"
) -> Iterator[float | None]:
    """Only the matrix products of one epoch, the same shapes and precision: the limit."""
    import torch

    torch.set_num_threads(threads)
    dtype = getattr(torch, precision)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns).to(dtype)

    sizes = [(784, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT), (LATENT, HIDDEN), (HIDDEN, 784)]
    layers = [(matrix(BATCH, i), matrix(i, o), matrix(BATCH, o), matrix(i, o)) for i, o in sizes]
    outputs = [matrix(BATCH, o) for _, o in sizes]
    back = [matrix(BATCH, i) for i, _ in sizes]
    while True:
        for step in range(-(-60_000 // BATCH) + -(-10_000 // BATCH)):
            for index, (x, w, g, dw) in enumerate(layers):
                torch.mm(x, w, out=outputs[index])
                if step < 469:
                    torch.mm(x.t(), g, out=dw)
                    if index:
                        torch.mm(g, w.t(), out=back[index])
        yield None


def products_bf16(folder: Path, threads: int, device: str) -> Iterator[float | None]:
    """The same in bfloat16."""
    return products(folder, threads, device, "bfloat16")


def arrays(folder: Path):  # type: ignore[no-untyped-def]
    """Training and test images as uint8 (N, 1, 28, 28)."""
    import numpy as np

    for prefix in ("train", "t10k"):
        data = gzip.decompress((folder / f"MNIST/raw/{prefix}-images-idx3-ubyte.gz").read_bytes())
        yield np.frombuffer(data[16:], np.uint8).reshape(-1, 1, 28, 28)


CONTENDERS = {
    "vaecli": vaecli_loop,
    "vaecli-bf16": vaecli_bf16,
    "textbook": textbook,
    "textbook-compiled": partial(textbook, compiled=True),
    "pythae": pythae,
    "jax": jax_loop,
    "products": products,
    "products-bf16": products_bf16,
    "recipe-20": partial(recipe, epochs=20),
    "recipe-5": partial(recipe, epochs=5),
    "recipe-20-bf16": partial(recipe, epochs=20, precision="bf16"),
    "recipe-5-bf16": partial(recipe, epochs=5, precision="bf16"),
}

if __name__ == "__main__":
    main()
