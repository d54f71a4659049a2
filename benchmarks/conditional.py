"""Do samples show the class that was asked for: `python benchmarks/conditional.py`.

    vaecli train --data mnist --condition labels -o runs/given
    vaecli train --data mnist -o runs/plain
    python benchmarks/conditional.py --model runs/given --plain runs/plain --data-dir DATA

A small convolutional classifier is trained on the training images.  It looks at N samples of each
class, drawn from the model's own prior at three temperatures, and at the test images to compare
with: the share that it takes for the class they are of.  Beside that, the loss on the test images
of both runs, as their last rows have it: at most -log p(x|label), and at most -log p(x).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from prior_quality import predict, train_classifier

from vaecli.data import catalogue
from vaecli.data.reading import Reading
from vaecli.evaluation import generation
from vaecli.model.vae import TorchRunner
from vaecli.runs.load import load_model

TEMPERATURES = (1.0, 0.9, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="latest")
    parser.add_argument("--plain")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("-n", type=int, default=1000, help="samples of each class")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    loaded = load_model(arguments.model)
    assert loaded.run is not None
    reading = Reading(arguments.data_dir, download=False, report=print)
    sets = catalogue.load(loaded.run.config.data.name, reading)
    classifier = train_classifier(sets.train, epochs=4)
    right = predict(classifier, np.asarray(sets.test.pixels)).argmax(1).numpy() == sets.test.labels
    found: dict[str, object] = {"test_images_agree": float(right.mean())}
    asked = np.arange(len(loaded.config.classes)).repeat(arguments.n)
    runner = TorchRunner(loaded.model)
    for temperature in TEMPERATURES:
        pixels = generation.sample(
            runner, len(asked), seed=0, temperature=temperature, labels=asked
        )
        seen = predict(classifier, pixels).argmax(1).numpy()
        shares = (seen == asked).reshape(-1, arguments.n).mean(1)
        found[f"samples_at_{temperature:g}"] = {
            "agree": float(shares.mean()),
            "of_each_class": dict(zip(loaded.config.classes, shares.tolist(), strict=True)),
        }
    found["samples_of_each_class"] = arguments.n
    for name in filter(None, (arguments.model, arguments.plain)):
        run = load_model(name).run
        assert run is not None
        last = run.read_metrics()[-1]
        condition = run.config.model.condition
        found[f"loss_condition_{condition}"] = {
            "epochs": last.epoch,
            "test_loss": last.test_loss,
            "test_distortion": last.test_distortion,
            "test_rate": last.test_rate,
        }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
