"""Several -m: one table, the same images and protocol, no choice by the test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import TRAIN, Vaecli
from vaecli.cli import app
from vaecli.errors import ExitCode

SMALL = (*TRAIN, "--epochs", "1", "--hidden", "16", "-q")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """Runs in folders named after what is special of each."""
    folder = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    np.save(folder / "mine.npy", rng.integers(0, 256, (60, 28, 28), np.uint8))
    for name, *arguments in (
        ("plain",),
        ("better", "--hidden", "64", "--seed", "1"),
        ("dynamic", "--binarize", "dynamic"),
        ("gaussian", "--likelihood", "gaussian"),
        ("continuous", "--likelihood", "continuous-bernoulli"),
        ("held", "--patience", "1"),
        ("held better", "--patience", "1", "--hidden", "64"),
        ("other", "--data", str(folder / "mine.npy")),
    ):
        line = [*SMALL, *arguments, "--data-dir", str(data_dir), "-o", str(folder / name)]
        assert app.run(line) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(runs: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))


def models(*names: str) -> list[str]:
    return [word for name in names for word in ("-m", name)]


def asked(vaecli: Vaecli, *arguments: object) -> dict[str, Any]:
    outcome = vaecli("eval", "--json", *arguments)
    assert outcome.code == 0, outcome.err
    value: dict[str, Any] = json.loads(outcome.out)
    return value


def test_each_row_is_what_eval_says_of_the_model(vaecli: Vaecli) -> None:
    line = ("--importance-samples", "4", "--limit", "40")
    told = asked(vaecli, *models("better", "plain"), *line)
    assert [value.pop("model") for value in told["models"]] == ["better", "plain"]
    assert told["data"] == "mnist, test split"
    for name, value in zip(("better", "plain"), told["models"], strict=True):
        alone = asked(vaecli, "-m", name, *line)
        assert alone.pop("schema_version") == told["schema_version"]
        assert value == alone


def test_without_a_validation_split_nothing_is_ranked(vaecli: Vaecli) -> None:
    """Whichever comes first, and though one is better on the test images."""
    for order in (("plain", "better"), ("better", "plain"), ("held", "plain")):
        outcome = vaecli("eval", *models(*order))
        head, *rows = [line.split("\t") for line in outcome.out.splitlines()]
        assert head[:2] == ["model", "loss"]
        assert {"prior", "distortion", "rate"} <= {*head}
        assert [row[0] for row in rows] == list(order)
        assert "a report, not a selection" in outcome.err
        assert asked(vaecli, *models(*order))["ranked_by"] is None


def test_held_out_images_rank(vaecli: Vaecli) -> None:
    line = models("held", "held better")
    told = asked(vaecli, *line)
    assert told["ranked_by"] == "validation_loss"
    assert [value["model"] for value in told["models"]] == ["held better", "held"]
    for value in told["models"]:
        alone = asked(vaecli, "-m", value["model"], "--split", "validation")
        assert value["validation_loss"] == alone["loss"]
        assert value["loss"] == asked(vaecli, "-m", value["model"])["loss"]
    by_split = asked(vaecli, *line, "--split", "validation")
    assert by_split["ranked_by"] == "loss"
    assert [value["model"] for value in by_split["models"]] == ["held better", "held"]
    outcome = vaecli("eval", *line)
    assert "ranked by validation loss, best first" in outcome.err
    assert outcome.out.splitlines()[0].split("\t")[1] == "validation_loss"
    assert asked(vaecli, *line, "--split", "train")["ranked_by"] is None


def test_other_images_are_refused(vaecli: Vaecli) -> None:
    outcome = vaecli("eval", *models("plain", "other"))
    assert outcome.code == ExitCode.USAGE
    assert "different images (mnist, test split; mine, test split)" in outcome.err
    assert "--data" in outcome.err
    told = asked(vaecli, *models("other", "plain"), "-d", "mnist")
    assert told["data"] == "mnist, test split"  # not those that one of them was trained on
    assert [value["n_images"] for value in told["models"]] == [130, 130]


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        (("plain", "dynamic"), (), "Name one protocol for all with --binarize"),
        (("plain", "gaussian"), (), "Losses of different likelihoods do not compare"),
        (("plain", "better"), ("--per-image", "x.csv"), "--per-image is for one model"),
        (("plain", "better"), ("--plot", "x.png"), "--plot is for one model"),
    ],
)
def test_what_does_not_compare_is_exit_2(
    names: tuple[str, ...], more: tuple[str, ...], words: str, vaecli: Vaecli
) -> None:
    outcome = vaecli("eval", *models(*names), *more)
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    assert words in outcome.err


def test_one_protocol_for_all_is_taken(vaecli: Vaecli) -> None:
    told = asked(vaecli, *models("plain", "dynamic"), "--binarize", "dynamic")
    assert len({value["protocol"] for value in told["models"]}) == 1
    assert len(asked(vaecli, *models("gaussian", "continuous"))["models"]) == 2  # both densities


def test_a_name_with_a_space_in_a_variable_is_one_model(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before several could be given; and the order of what counts is as ever."""
    wanted = asked(vaecli, "-m", "held better")
    for variable in ("VAECLI_MODEL", "VAECLI_EVAL_MODEL"):
        monkeypatch.setenv("VAECLI_MODEL", "plain")
        monkeypatch.setenv(variable, "held better")
        assert asked(vaecli) == wanted
    assert asked(vaecli, "-m", "plain")["loss"] != wanted["loss"]
    monkeypatch.delenv("VAECLI_MODEL")
    monkeypatch.delenv("VAECLI_EVAL_MODEL")
    Path("two.toml").write_text('[eval]\nmodel = ["plain", "better"]\n')
    assert len(asked(vaecli, "-c", "two.toml")["models"]) == 2
    Path("one.toml").write_text('model = "held better"\n')
    assert asked(vaecli, "-c", "one.toml") == wanted
