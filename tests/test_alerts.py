"""`eval --alert-rate`: p-values and their promise, what is stored for them, what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from conftest import TRAIN, Vaecli
from vaecli.data.named import idx
from vaecli.errors import ExitCode, UsageError
from vaecli.evaluation import alerts
from vaecli.runs import held_out
from vaecli.runs.directory import HELD_OUT, WEIGHTS


@pytest.fixture(autouse=True)
def _in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


@pytest.fixture
def suspects(data_dir: Path) -> Path:
    """Six training digits, which the model knows, and two images of noise."""
    folder = Path("suspects")
    folder.mkdir()
    digits = idx.read_idx(data_dir / "MNIST/raw/train-images-idx3-ubyte.gz")
    for index, digit in enumerate(digits[:6]):
        Image.fromarray(digit.squeeze()).save(folder / f"digit-{index}.png")
    for index, noise in enumerate(np.random.default_rng(0).integers(0, 256, (2, 28, 28))):
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"noise-{index}.png")
    return folder


def rows(path: str | Path) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


# --- the formulas --------------------------------------------------------------------------------


def test_a_p_value_counts_the_held_out_images_that_score_as_high() -> None:
    rng = np.random.default_rng(0)
    held_out = np.sort(rng.integers(0, 20, 57).astype(np.float64))  # with ties
    scores = np.array([*rng.integers(-1, 22, 200).astype(np.float64), np.inf, np.nan])
    expected = [(1 + sum(h >= s for h in held_out)) / 58 for s in scores[:-1]] + [1 / 58]
    assert alerts.p_values(scores, held_out).tolist() == expected


def test_ordinary_images_raise_an_alert_as_rarely_as_promised() -> None:
    """For scores without ties the probability is exactly floor(rate (n + 1)) / (n + 1)."""
    rng, n, draws = np.random.default_rng(1), 24, 40_000
    held_out, new = np.sort(rng.standard_cauchy((draws, n)), 1), rng.standard_cauchy(draws)
    p = np.array([alerts.p_values(s[None], h)[0] for s, h in zip(new, held_out, strict=True)])
    for rate, exact in ((0.04, 1 / 25), (0.1, 2 / 25), (0.5, 12 / 25)):
        assert (p <= rate).mean() == pytest.approx(exact, abs=4 * math.sqrt(exact / draws))


@pytest.mark.parametrize("n", [1, 9, 99, 100, 999])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.07, 0.1, 0.29, 0.5, 0.9])
def test_the_threshold_is_what_alerts_exceed(n: int, rate: float) -> None:
    if n < alerts.needed(rate):
        return
    held_out = np.sort(np.random.default_rng(n).integers(0, n, n).astype(np.float64))
    scores = np.arange(-1, n + 1) / 1.0
    above = scores > alerts.threshold(held_out, rate)
    assert (above == (alerts.p_values(scores, held_out) <= rate)).all()


def test_the_number_needed_is_the_least_for_which_a_p_value_can_be_so_small() -> None:
    for text in ("0.5", "0.3", "0.1", "0.07", "0.03", "0.01", "0.009", "0.001", "0.00003"):
        rate = Fraction(text)
        assert alerts.needed(float(text)) == math.ceil(1 / rate - 1), text


def test_complexity_is_the_length_of_the_png_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat, noise = np.zeros((3, 16, 16), np.uint8), rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    for pixels in (np.stack([flat, noise]), np.stack([flat, noise])[:, :1]):
        found = alerts.complexity(pixels)
        for image, nats in zip(pixels, found, strict=True):
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(tmp_path / "a.png")
            assert nats == pytest.approx((tmp_path / "a.png").stat().st_size * math.log(256))
        assert found[1] > found[0]


# --- what a run keeps ----------------------------------------------------------------------------


def test_a_run_keeps_the_scores_of_its_test_images(trained: Path, data_dir: Path) -> None:
    """Against the bound computed from the model here, with noise that `eval` does not use."""
    import torch

    from vaecli.model.bounds import elbo_terms
    from vaecli.model.vae import as_float
    from vaecli.noise import NormalNoise
    from vaecli.philox import derive_seed
    from vaecli.runs.load import load_model

    loaded = load_model(str(trained))
    test = idx.read_idx(data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
    x = as_float(torch.as_tensor(test))
    noise = NormalNoise(8, seed=derive_seed(0, "held-out"), purpose="evaluation")
    with torch.no_grad():
        terms = elbo_terms(x, *loaded.model(x, noise.rows(0, 130)))
    known = held_out.read(loaded, "a test")
    bounds = negative_log_likelihoods(loaded.model, test)
    np.testing.assert_allclose(known.scores["likelihood"], np.sort(bounds), rtol=1e-5)
    for name, expected in (("loss", terms.loss), ("distortion", terms.distortion)):
        np.testing.assert_allclose(known.scores[name], np.sort(expected.numpy()), rtol=1e-4)
    longer = np.sort(terms.loss.numpy() - alerts.complexity(test))
    np.testing.assert_allclose(known.scores["complexity"], longer, rtol=1e-4)


def negative_log_likelihoods(model: Any, digits: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The importance-weighted bound of 16 samples by its definition, in torch's distributions."""
    import torch
    from torch.distributions import Bernoulli, Normal

    from vaecli.noise import SampleNoise
    from vaecli.philox import derive_seed

    x = torch.as_tensor(digits) / 255
    noise = SampleNoise(8, seed=derive_seed(0, "held-out"), purpose="evaluation")
    with torch.no_grad():
        mean, log_variance = model.encoder(x)
        q = Normal(mean[:, None], (log_variance / 2).exp()[:, None])
        z = q.loc + q.scale * noise.rows(0, len(x), 16)
        p = Bernoulli(logits=model.decoder(z.reshape(-1, 8)), validate_args=False)
        log_p = p.log_prob(x.repeat_interleave(16, 0)).sum((1, 2, 3)).reshape(-1, 16)
        log_weights = log_p.double() + (Normal(0, 1).log_prob(z) - q.log_prob(z)).sum(2)
    bounds: NDArray[np.float64] = (math.log(16) - log_weights.logsumexp(1)).numpy()
    return bounds


def test_the_likelihood_is_kept_of_some_images_from_the_first_to_the_last(
    vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaecli.runs.load import load_model
    from vaecli.training import calibration

    monkeypatch.setattr(calibration, "MOST_LIKELIHOODS", 44)
    assert vaecli(*TRAIN, "-e", "1", "-o", "run", "-q").code == 0
    test = idx.read_idx(data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz").reshape(-1, 1, 28, 28)
    known = safetensors.numpy.load_file(Path("run", HELD_OUT))
    bounds = negative_log_likelihoods(load_model("run").model, test[::3])  # 44 of 130
    np.testing.assert_allclose(known["score.likelihood"], np.sort(bounds), rtol=1e-5)
    assert judge(vaecli, "run", "--alert-rate", "0.01")["n_held_out"] == 130
    outcome = vaecli("eval", "-m", "run", "--alert-rate", "0.01", "--score", "likelihood")
    assert outcome.code == ExitCode.USAGE
    assert "99 held-out images, and run has 44" in outcome.err
    assert "0.022, or another score" in outcome.err


def test_images_that_patience_selected_on_are_not_used(vaecli: Vaecli, data_dir: Path) -> None:
    assert vaecli(*TRAIN, "-e", "2", "--patience", "1", "-o", "run", "-q").code == 0
    tensors = safetensors.numpy.load_file(Path("run", HELD_OUT))
    assert tensors["score.loss"].shape == (130,)  # the test images; patience watched 50 others
    result = json.loads(vaecli("eval", "-m", "run", "--json").out)
    assert tensors["score.loss"].mean() == pytest.approx(result["loss"], rel=0.01)


# --- the command ---------------------------------------------------------------------------------


def judge(vaecli: Vaecli, run: Path | str, *arguments: object) -> dict[str, Any]:
    outcome = vaecli("eval", "-m", run, "--json", *arguments)
    assert outcome.code == 0, outcome.err
    value: dict[str, Any] = json.loads(outcome.out)
    return value


@pytest.mark.parametrize("score", held_out.SCORES)
def test_verdicts_follow_from_the_stored_scores(
    vaecli: Vaecli, trained: Path, suspects: Path, score: str
) -> None:
    options = ("-d", suspects, "--alert-rate", "0.05", "--score", score, "--per-image", "all.csv")
    result = judge(vaecli, trained, *options)
    known = safetensors.numpy.load_file(trained / HELD_OUT)[f"score.{score}"]
    assert (result["score"], result["alert_rate"], result["n_held_out"]) == (score, 0.05, 130)
    assert result["threshold"] == sorted(known)[-6]  # 6 of 131 are at most 5 %, 7 are not
    if score == "likelihood":
        assert result["importance_samples"] == 16  # as the held-out images
    if score == "complexity":
        return  # noise is no alert here: it is as complex as its loss is high
    column = {"likelihood": "nll"}.get(score, score)
    for row in rows("all.csv"):
        p = (1 + (known >= float(row[column])).sum()) / 131
        assert float(row["p_value"]) == p
        assert row["verdict"] == ("alert" if p <= 0.05 else "ok")
    assert [row["path"] for row in rows("all.csv") if row["verdict"] == "alert"] == [
        "noise-0.png",
        "noise-1.png",
    ]
    assert result["alerts"] == 2
    assert "probability of at most 5 %" in result["protocol"]
    assert "the 130 held-out ones" in result["protocol"]


@pytest.mark.parametrize("score", ["loss", "likelihood"])
def test_python_gives_the_same_verdicts(
    vaecli: Vaecli, trained: Path, suspects: Path, score: str
) -> None:
    import vaecli as api

    options = ("--alert-rate", "0.05", "--score", score, "--per-image", "all.csv")
    judge(vaecli, trained, "-d", suspects, *options)
    found = api.load(trained, device="cpu").score(suspects, alert_rate=0.05, score=score)
    for name in ("p_value", "verdict"):
        assert [str(value) for value in found[name]] == [row[name] for row in rows("all.csv")]
    with pytest.raises(UsageError, match="999 held-out"):
        api.load(trained, device="cpu").score(suspects, alert_rate=0.001)


def test_an_alert_is_exit_8_where_that_is_asked_for(
    vaecli: Vaecli, trained: Path, suspects: Path
) -> None:
    asked = ("eval", "-m", trained, "-d", suspects, "--alert-rate", "0.05")
    outcome = vaecli(*asked)
    assert outcome.code == 0
    assert "alert: noise-0.png: loss" in outcome.err
    assert "alert: digit" not in outcome.err
    outcome = vaecli(*asked, "--fail-on-alert", "--per-image", "all.jsonl", "--json")
    assert outcome.code == 8
    assert json.loads(outcome.out)["alerts"] == 2
    assert len(Path("all.jsonl").read_text().splitlines()) == 8
    for noise in suspects.glob("noise-*"):
        noise.unlink()
    assert vaecli(*asked, "--fail-on-alert").code == 0


def test_unreadable_inputs_come_before_alerts(
    vaecli: Vaecli, trained: Path, suspects: Path
) -> None:
    Path(suspects, "broken.png").write_bytes(b"no picture")
    asked = ("eval", "-m", trained, "-d", suspects, "--alert-rate", "0.05", "--fail-on-alert")
    assert vaecli(*asked).code == ExitCode.DATA


def test_unreadable_inputs_that_are_left_out_hide_no_alert(
    vaecli: Vaecli, trained: Path, suspects: Path
) -> None:
    Path(suspects, "broken.png").write_bytes(b"no picture")
    for index in range(12):  # at most a tenth may be bad
        shutil.copy(suspects / "digit-0.png", suspects / f"more-{index}.png")
    asked = ("eval", "-m", trained, "-d", suspects, "--alert-rate", "0.05", "--fail-on-alert")
    assert vaecli(*asked, "--skip-bad").code == ExitCode.ALERT


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--alert-rate", "0.001"), ("999 held-out images", "has 130")),
        (("--alert-rate", "0"), ("between 0 and 1",)),
        (("--alert-rate", "1"), ("between 0 and 1",)),
        (("--alert-rate", "nan"), ("between 0 and 1",)),
        (("--fail-on-alert",), ("--alert-rate",)),
        (("--score", "loss"), ("--score loss needs --alert-rate",)),
        (
            ("--alert-rate", "0.1", "--score", "likelihood", "--importance-samples", "50"),
            ("with --importance-samples 16, not 50", "Leave --importance-samples out"),
        ),
        (("--alert-rate", "0.1", "--binarize", "dynamic"), ("--binarize none",)),
        (("--alert-rate", "0.1", "--prior", "gmm"), ("Leave --prior out",)),
        (("--alert-rate", "0.1", "-m", "latest"), ("one model",)),
        (("--alert-rate", "0.1", "--score", "beauty"), ("beauty",)),
    ],
)
def test_rates_that_make_no_sense_are_exit_2(
    vaecli: Vaecli, trained: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    outcome = vaecli("eval", "-m", trained, *options)
    assert outcome.code == ExitCode.USAGE
    assert all(word in outcome.err for word in words), outcome.err


def test_the_rate_that_just_suffices(vaecli: Vaecli, trained: Path) -> None:
    assert judge(vaecli, trained, "--alert-rate", str(1 / 131))["alerts"] <= 1
    assert vaecli("eval", "-m", trained, "--alert-rate", "0.0076").code == ExitCode.USAGE


def test_nothing_to_compare_with_is_exit_2(vaecli: Vaecli, trained: Path) -> None:
    outcome = vaecli("eval", "-m", trained / WEIGHTS, "-d", "mnist", "--alert-rate", "0.1")
    assert outcome.code == ExitCode.USAGE
    assert "Name the run directory" in outcome.err
    shutil.copytree(trained, "older")
    Path("older", HELD_OUT).unlink()
    outcome = vaecli("eval", "-m", "older", "--alert-rate", "0.1")
    assert outcome.code == ExitCode.USAGE
    assert "`vaecli train --resume older`" in outcome.err
    assert vaecli("train", "--resume", "older").code == 0
    assert vaecli("eval", "-m", "older", "--alert-rate", "0.1").code == 0


def test_it_works_where_the_images_and_the_state_are_not(
    vaecli: Vaecli, trained: Path, suspects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, "alone", ignore=shutil.ignore_patterns("state"))
    monkeypatch.setenv("VAECLI_DATA_DIR", "empty")
    assert judge(vaecli, "alone", "-d", suspects, "--alert-rate", "0.05")["alerts"] == 2


Damage = dict[str, NDArray[Any]]


@pytest.mark.parametrize(
    "what", ["cut", "bytes", "weights", "samples", "shape", "nan", "missing", "empty"]
)
def test_a_damaged_or_foreign_file_is_exit_4(vaecli: Vaecli, trained: Path, what: str) -> None:
    from vaecli.runs import weights

    shutil.copytree(trained, "run")
    path = Path("run", HELD_OUT)
    data, tensors = path.read_bytes(), safetensors.numpy.load_file(path)
    with weights.open_weights(path) as file:
        info = weights.read_header(file).info
    if what == "cut":
        data = data[:-5]
    elif what == "bytes":
        data = data[:-1] + bytes([data[-1] ^ 1])
    else:
        if what == "weights":
            info["weights"] = "0" * 64
        if what == "samples":
            info["importance_samples"] = 10**9
        if what == "shape":
            tensors["surprise.mean"] = tensors["surprise.mean"][:5]
        if what == "nan":
            tensors["score.loss"] = np.full(130, np.nan)
        if what == "missing":
            del tensors["surprise.peaks"]
        if what == "empty":
            tensors |= {f"score.{name}": np.empty(0) for name in held_out.SCORES}
        data = weights.encode(tensors, info)
    path.write_bytes(data)
    outcome = vaecli("eval", "-m", "run", "--alert-rate", "0.1")
    assert outcome.code == ExitCode.MODEL, outcome.err
    assert HELD_OUT in outcome.err
    assert vaecli("eval", "-m", "run").code == 0  # nothing else needs it
