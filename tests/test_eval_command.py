"""`vaecli eval` as a user meets it: what it reports, per image too, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from conftest import TRAIN, Vaecli
from vaecli.cli import app
from vaecli.errors import ExitCode


@pytest.fixture(autouse=True)
def _in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, Path]:
    """One short run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "dynamic": ("--binarize", "dynamic"),
        "static": ("--binarize", "static"),
        "logistic": ("--likelihood", "logistic"),
        "gaussian": ("--likelihood", "gaussian"),
        "continuous-bernoulli": ("--likelihood", "continuous-bernoulli"),
        "importance": ("--importance-samples", "5"),
        "beta": ("--beta", "4", "--warmup-epochs", "1", "--free-bits", "0.1"),
    }
    for name, options in kinds.items():
        common = ["--epochs", "2", "--data-dir", str(data_dir), "-q", "-o", str(folder / name)]
        assert app.run([*TRAIN, *common, *options]) == 0
    return {name: folder / name for name in kinds}


def judge(vaecli: Vaecli, run: Path, *arguments: object) -> dict[str, Any]:
    outcome = vaecli("eval", "-m", run, "--json", *arguments)
    assert outcome.code == 0, outcome.err
    result: dict[str, Any] = json.loads(outcome.out)
    return result


def last_row(run: Path) -> dict[str, str]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))[-1]


KINDS = ["dynamic", "static", "logistic", "gaussian", "continuous-bernoulli", "importance", "beta"]


@pytest.mark.parametrize("kind", KINDS)
def test_eval_repeats_the_last_row_of_every_kind(
    vaecli: Vaecli, runs: dict[str, Path], kind: str
) -> None:
    result, row = judge(vaecli, runs[kind]), last_row(runs[kind])
    for name in ("loss", "distortion", "rate"):
        assert f"{result[name]:.6f}" == row[f"test_{name}"]
    assert math.isfinite(float(row["objective"]))
    assert (row["objective"] == row["train_loss"]) == (kind not in ("importance", "beta"))


def test_the_numbers_do_not_depend_on_the_batch_size(vaecli: Vaecli, runs: dict[str, Path]) -> None:
    options = ("--importance-samples", "20")
    results = [judge(vaecli, runs["dynamic"], "-b", size, *options) for size in (1, 7, 1000)]
    for name, value in results[0].items():
        for other in results[1:]:
            if isinstance(value, str):
                assert other[name] == value
            else:
                assert other[name] == pytest.approx(value, abs=1e-4)


def test_twice_with_one_seed_is_equal_to_the_byte(vaecli: Vaecli, runs: dict[str, Path]) -> None:
    arguments = ("eval", "-m", runs["dynamic"], "--json", "--importance-samples", "9")
    assert vaecli(*arguments).out == vaecli(*arguments).out
    assert vaecli(*arguments).out != vaecli(*arguments, "--seed", "1").out


def test_what_is_reported_belongs_to_the_protocol(vaecli: Vaecli, runs: dict[str, Path]) -> None:
    grey = judge(vaecli, runs["beta"])
    assert "Grey-scale BCE" in grey["protocol"]
    assert 0 < grey["entropy_floor"] < grey["loss"]
    words = {
        "dynamic": "Dynamic binarization",
        "static": "Static binarization",
        "gaussian": "Gaussian",
        "logistic": "256 grey levels",
        "continuous-bernoulli": "continuous Bernoulli",
    }
    for kind, text in words.items():
        result = judge(vaecli, runs[kind])
        assert text in result["protocol"]
        assert "entropy_floor" not in result
        assert ("bits_per_dim" in result) == (kind == "logistic")
        assert "nll" not in result
    result = judge(vaecli, runs["logistic"], "--importance-samples", "50")
    assert result["bits_per_dim"] == pytest.approx(result["loss"] / (784 * math.log(2)))
    assert result["nll_bits_per_dim"] == pytest.approx(result["nll"] / (784 * math.log(2)))
    assert result["nll"] < result["loss"]
    assert 1 <= result["ess"] <= 50
    assert 0 < result["nll_se"] < result["nll"]
    assert "50 samples" in result["protocol"]


def test_static_binarization_does_not_follow_the_seed_or_the_split(
    vaecli: Vaecli, runs: dict[str, Path]
) -> None:
    first, second = (judge(vaecli, runs["static"], "--seed", seed) for seed in (1, 2))
    assert first["rate"] == second["rate"]  # the rate needs no noise: the images are the same
    assert first["loss"] != second["loss"]
    train, everything = (judge(vaecli, runs["static"], "--split", s) for s in ("train", "all"))
    expected = (500 * train["rate"] + 130 * first["rate"]) / 630
    assert everything["rate"] == pytest.approx(expected, abs=1e-4)
    redrawn = [judge(vaecli, runs["static"], "--binarize", "dynamic", "--seed", s) for s in (1, 2)]
    assert redrawn[0]["rate"] != redrawn[1]["rate"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_scores_per_image_average_to_the_loss(vaecli: Vaecli, trained: Path, suffix: str) -> None:
    file = Path(f"scores.{suffix}")
    options = ("--per-image", file, "--latents", "--importance-samples", "8")
    result = judge(vaecli, trained, *options)
    text = file.read_text()
    rows: list[dict[str, Any]]
    if suffix == "csv":
        rows = list(csv.DictReader(text.splitlines()))
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    columns = ["index", "label", "class", "loss", "distortion", "rate", "nll", "ess"]
    assert list(rows[0])[:8] == columns
    assert list(rows[0])[8:] == [f"z{index}" for index in range(8)]
    assert [int(row["index"]) for row in rows] == list(range(130))
    assert len({row["label"] for row in rows}) == 10
    for name in ("loss", "distortion", "rate", "nll", "ess"):
        mean = math.fsum(float(row[name]) for row in rows) / len(rows)
        assert mean == pytest.approx(result[name], abs=1e-6)


def test_the_model_s_own_data_by_name_says_which_of_them_are_taken(
    vaecli: Vaecli, trained: Path
) -> None:
    note = "mnist: the model was trained on it, so only its test split (130 images) is taken"
    for more, told in (
        (("-d", "mnist"), True),
        ((), False),
        (("-d", "mnist", "--split", "test"), False),
    ):
        outcome = vaecli("eval", "-m", trained, *more)
        assert outcome.code == 0
        assert (note in outcome.err) == told


def test_scores_on_stdout_leave_the_metrics_to_stderr(vaecli: Vaecli, trained: Path) -> None:
    outcome = vaecli("eval", "-m", trained, "--per-image", "-", "--limit", "5")
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert "loss: " in outcome.err


def test_the_latents_are_the_means(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    import torch

    from vaecli.data.named.downloads import load
    from vaecli.data.reading import Reading
    from vaecli.model.vae import as_float
    from vaecli.runs.load import load_model

    judge(vaecli, trained, "--per-image", "scores.csv", "--latents")
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    test = load("mnist", Reading(data_dir, download=False)).test
    with torch.no_grad():
        mean, _ = load_model(str(trained)).model.encoder(as_float(torch.from_numpy(test.pixels[:])))
    found = torch.tensor([[float(row[f"z{i}"]) for i in range(8)] for row in rows])
    torch.testing.assert_close(found, mean)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--importance-samples", "0"), "--importance-samples"),
        (("--binarize", "often"), "--binarize"),
        (("--latents",), "--per-image"),
        (("--per-image", "scores.txt"), ".csv, .jsonl or .parquet"),
        (("--per-image", "-", "--json"), "stdout"),
        (("--per-image", "taken.csv"), "exists"),
        (("--batch-size", "0"), "--batch-size"),
    ],
)
def test_bad_requests_are_exit_2(
    vaecli: Vaecli, trained: Path, arguments: tuple[str, ...], word: str
) -> None:
    Path("taken.csv").write_text("mine")
    outcome = vaecli("eval", "-m", trained, *arguments)
    assert outcome.code == ExitCode.USAGE
    assert word in outcome.err
    assert Path("taken.csv").read_text() == "mine"


def test_force_replaces_scores(vaecli: Vaecli, trained: Path) -> None:
    Path("taken.csv").write_text("mine")
    judge(vaecli, trained, "--per-image", "taken.csv", "--force", "--limit", "3")
    assert len(Path("taken.csv").read_text().splitlines()) == 4


def test_binarizing_for_a_density_is_exit_2(vaecli: Vaecli, runs: dict[str, Path]) -> None:
    outcome = vaecli("eval", "-m", runs["logistic"], "--binarize", "dynamic")
    assert outcome.code == ExitCode.USAGE
    assert "logistic" in outcome.err


def test_a_folder_that_cannot_take_the_scores_is_known_before_the_work(
    vaecli: Vaecli, trained: Path
) -> None:
    outcome = vaecli("eval", "-m", trained, "--per-image", "nowhere/scores.csv")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "loss" not in outcome.out


def test_one_image_has_no_standard_error(vaecli: Vaecli, trained: Path) -> None:
    result = judge(vaecli, trained, "--limit", "1", "--importance-samples", "4")
    assert result["nll_se"] is None
    assert result["nll"] is not None
