"""Pictures, held-out scores and model card of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vaecli._version import __version__
from vaecli.config import DataConfig
from vaecli.data.dataset import Images
from vaecli.data.labels import of_images, rows_of_classes
from vaecli.data.named.licences import LICENCES
from vaecli.evaluation.generation import reconstruct, sample
from vaecli.evaluation.units import PRIORS, about_prior, describe
from vaecli.model.vae import VAE, TorchRunner
from vaecli.pictures.grid import encode_png, make_grid, make_pairs
from vaecli.runs.directory import (
    CARD,
    CURVES,
    HELD_OUT,
    LATENTS,
    RECONSTRUCTIONS,
    SAMPLES,
    Run,
)
from vaecli.runs.metrics import EpochMetrics
from vaecli.system.strict_json import canonical_json
from vaecli.training import calibration

PAIRS = 12
SAMPLE_COLUMNS = 8


def write(
    run: Run, model: VAE, test: Images, rows: Sequence[EpochMetrics], epoch: int
) -> tuple[Path, ...]:
    """Write pictures, held-out scores and model card of a run directory.

    Args:
        run: the run directory.
        model: the trained model.
        test: test images.
        rows: the metrics of all epochs.
        epoch: the epoch of the model's weights, from 1.

    Returns:
        The paths of pictures and card.
    """
    from vaecli.pictures import plots

    runner = TorchRunner(model)
    shown = test.first(2 * PAIRS)
    originals, labels = next(shown.parts()), of_images(model.config, shown)
    grid = make_pairs(originals, reconstruct(runner, originals, labels=labels), columns=PAIRS)
    run.write(RECONSTRUCTIONS, encode_png(grid))
    labels = rows_of_classes(model.config, SAMPLE_COLUMNS)
    count = SAMPLE_COLUMNS**2 if labels is None else len(labels)
    samples = sample(runner, count, seed=run.config.training.seed, labels=labels)
    run.write(SAMPLES, encode_png(make_grid(samples, columns=SAMPLE_COLUMNS)))
    run.write(CURVES, plots.curves(rows))
    settings = run.config.training
    result = calibration.evaluated(model, test, settings)
    figure = plots.latents(result, test.labels, source=f"{run.config.data.name}, test split")
    run.write(LATENTS, figure)
    run.write(HELD_OUT, calibration.measured(model, test, result, settings).encode(model.weights()))
    run.write(CARD, card(run, rows[:epoch]).encode())
    names = (RECONSTRUCTIONS, SAMPLES, CURVES, LATENTS, CARD)
    return tuple(run.path / name for name in names)


def card(run: Run, rows: Sequence[EpochMetrics]) -> str:
    """The model card: YAML front matter for the Hugging Face Hub, then text.

    The front matter is its model-index specification; strings are written as JSON, which is always
    valid YAML.
    """
    config, last = run.config, rows[-1]
    model = config.model
    shape = "x".join(map(str, model.image_shape))
    hidden = ", ".join(map(str, model.hidden))
    protocol = describe(model, config.training.binarize)
    task, tag, label = "unconditional-image-generation", "", ""
    if model.classes:
        task = "class-conditional-image-generation"
        label = f" --label {model.classes[0] if model.classes[0].isalnum() else 0}"
    else:  # the only one of them that the Hub knows
        tag = f"pipeline_tag: {task}\n"
    return f"""---
library_name: vaecli
{tag}tags:
- vae
- variational-autoencoder
- pytorch
model-index:
- name: {json.dumps(f"{model.arch} variational autoencoder on {config.data.name}")}
  results:
  - task:
      type: {task}
    dataset:
      type: {json.dumps(config.data.name)}
      name: {json.dumps(config.data.name)}
      split: test
    metrics:
{_metrics(last)}
---

# Variational autoencoder on {config.data.name}

Made by vaecli {__version__}: `{model.arch}` encoder and decoder, hidden {hidden}, latent
dimension {model.latents}, prior {PRIORS[model.prior]}, {model.likelihood} decoder, images {shape}.

| nats per image | train | test |
| --- | --- | --- |
| loss (negative ELBO) | {last.train_loss:.2f} | {last.test_loss:.2f} |
| distortion | {last.train_distortion:.2f} | {last.test_distortion:.2f} |
| rate | {last.train_rate:.2f} | {last.test_rate:.2f} |

After {last.epoch} epochs on {config.data.n_train:,} images; test figures over all
{config.data.n_test:,} test images, one noise sample each. {protocol}{about_prior(model.prior)}
{_licence(config.data)}
```
vaecli eval -m .
vaecli reconstruct IMAGE.png -m .{label}
vaecli sample -m .{label}
```

From the Hugging Face Hub, `-m hf://OWNER/NAME` in place of `-m .` does the same.

Configuration: `{canonical_json(config.to_json()["training"])}`
"""


def _licence(data: DataConfig) -> str:
    """What the card says of the licence of a published set; it says nothing of one's own images."""
    if data.kind != "named" or data.name not in LICENCES:
        return ""
    return f"\nLicence of the images: {LICENCES[data.name]}.\n"


def _metrics(row: EpochMetrics) -> str:
    """The test figures as entries of a model-index."""
    values = {
        "elbo": ("ELBO, nats per image", -row.test_loss),
        "distortion": ("Distortion, nats per image", row.test_distortion),
        "rate": ("Rate, nats per image", row.test_rate),
    }
    return "\n".join(
        f"    - type: {kind}\n      name: {name}\n      value: {value:.4f}"
        for kind, (name, value) in values.items()
    )
