"""The command line contract: streams, exit codes, errors, precedence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command import bug_expected
from conftest import TRAIN, Vaecli
from vaecli import __version__
from vaecli.cli import commands
from vaecli.cli.config_file import SHORT_VARIABLES
from vaecli.errors import ExitCode

pytestmark = pytest.mark.usefixtures("_in_cache")


@pytest.fixture
def _in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


def test_version(vaecli: Vaecli) -> None:
    assert vaecli("--version").out == f"vaecli {__version__}\n"
    assert "torch" in vaecli("--version", "-v").out


def test_a_command_spelled_wrong_is_told_the_nearest(vaecli: Vaecli) -> None:
    outcome = vaecli("trian")
    assert outcome.code == ExitCode.USAGE
    assert "'trian'. Did you mean 'train'? See `vaecli --help`.\n" in outcome.err


def test_train_prints_the_run_directory_and_nothing_else(vaecli: Vaecli) -> None:
    first = vaecli(*TRAIN, "--epochs", "1", "-q")
    assert (first.code, first.out, first.err) == (0, "runs/001-mnist-mlp\n", "")
    second = vaecli(*TRAIN, "--epochs", "1")
    assert second.out == "runs/002-mnist-mlp\n"
    assert "epoch 1/1  train " in second.err
    assert "\x1b" not in second.err
    names = {path.name for path in Path("runs/001-mnist-mlp").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "metrics.csv",
        "reconstructions.png",
        "samples.png",
        "curves.png",
        "latents.png",
        "held-out.safetensors",
        "README.md",
        "state",
    }


def test_eval_repeats_the_last_row(vaecli: Vaecli, trained: Path) -> None:
    result = json.loads(vaecli("eval", "-m", trained, "--json").out)
    last = (trained / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert [f"{result[k]:.6f}" for k in ("loss", "distortion", "rate")] == last[5:8]
    assert result["schema_version"] == 1
    assert result["n_images"] == 130
    assert "Grey-scale BCE" in result["protocol"]
    lines = dict(line.split("\t") for line in vaecli("eval", "-m", trained).out.splitlines())
    assert lines["loss"] == f"{result['loss']:.4f}"


def test_eval_of_latest_names_it_on_stderr(vaecli: Vaecli) -> None:
    vaecli(*TRAIN, "--epochs", "1", "-q")
    assert "runs/001-mnist-mlp" in vaecli("eval").err
    assert vaecli("eval", "-q").err == ""


def test_eval_splits_and_limits(vaecli: Vaecli, trained: Path) -> None:
    def count(*arguments: str) -> int:
        return int(json.loads(vaecli("eval", "-m", trained, "--json", *arguments).out)["n_images"])

    assert count("--split", "train") == 500
    assert count("--split", "all") == 630
    assert count("--limit", "7") == 7


BAD = [
    ("--epochs", "0"),
    ("--epochs", "many"),
    ("--batch-size", "0"),
    ("--batch-size", "-3"),
    ("--lr", "0"),
    ("--lr", "nan"),
    ("--lr", "inf"),
    ("--schedule", "step"),
    ("--output-bias", "one"),
    ("--hidden", "400,"),
    ("--hidden", "0"),
    ("--hidden", "1000000000"),
    ("--activation", "swish"),
    ("--latent-dim", "0"),
    ("--likelihood", "poisson"),
    ("--beta", "-1"),
    ("--beta", "nan"),
    ("--beta", "inf"),
    ("--warmup-epochs", "-1"),
    ("--warmup-epochs", "0.5"),
    ("--free-bits", "-0.1"),
    ("--free-bits", "nan"),
    ("--importance-samples", "0"),
    ("--importance-samples", "-5"),
    ("--binarize", "always"),
    ("--limit", "0"),
    ("--seed", "-1"),
    ("--threads", "0"),
    ("--device", "tpu"),
    ("--data", "emnist"),
    ("--config", "absent.toml"),
    ("--lattent-dim", "3"),
]


@pytest.mark.parametrize(("option", "value"), BAD)
def test_a_bad_value_is_exit_2_with_a_sentence(vaecli: Vaecli, option: str, value: str) -> None:
    outcome = vaecli("train", option, value)
    assert outcome.code == ExitCode.USAGE
    assert outcome.err.startswith("vaecli: error: ")
    assert option.lstrip("-") in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("runs").exists()
    error = json.loads(vaecli("train", option, value, "--json").out)["error"]
    assert error["code"] == "usage"


@pytest.mark.parametrize(
    "options",
    [
        ("--likelihood", "logistic", "--binarize", "dynamic"),
        ("--likelihood", "gaussian", "--binarize", "static"),
        ("--likelihood", "continuous-bernoulli", "--binarize", "dynamic"),
        ("--free-bits", "0.5", "--importance-samples", "2"),
    ],
)
def test_options_that_contradict_each_other_are_exit_2(
    vaecli: Vaecli, options: tuple[str, ...]
) -> None:
    outcome = vaecli("train", *options)
    assert outcome.code == ExitCode.USAGE
    assert options[0] in outcome.err
    assert options[2] in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("runs").exists()


def test_all_bad_values_are_named_together(vaecli: Vaecli) -> None:
    outcome = vaecli("train", "--epochs", "0", "--lr", "-1", "--latent-dim", "0")
    assert all(option in outcome.err for option in ("--epochs", "--lr", "--latent-dim"))


def test_a_wrong_option_under_json(vaecli: Vaecli) -> None:
    outcome = vaecli("eval", "--json", "--nonsense")
    assert outcome.code == 2
    assert set(json.loads(outcome.out)["error"]) == {"code", "message", "hint"}


def test_json_is_wanted_by_the_environment_too(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAECLI_EVAL_JSON", "1")
    assert "error" in json.loads(vaecli("eval", "--nonsense").out)


def test_variables_that_are_no_options_are_left_alone(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAECLI_VERSION", "0.1.0")
    monkeypatch.setenv("VAECLI_CONFIG", "")
    assert vaecli("train", "--data", "mnist", "--dry-run").code == 0


def test_no_command_shows_the_help(vaecli: Vaecli) -> None:
    outcome = vaecli()
    assert (outcome.code, outcome.err) == (ExitCode.USAGE, "")
    assert "reconstruct" in outcome.out


@pytest.mark.parametrize("command", ["", "train", "eval", "reconstruct", "sample", "export"])
def test_flags_take_no_value_in_help_and_no_choice_is_broken(vaecli: Vaecli, command: str) -> None:
    text = vaecli(*filter(None, [command]), "--help").out
    assert "<bool" not in text
    assert "<list" not in text
    assert not re.findall(r"<[^>\n]*$", text, re.MULTILINE)
    assert "env var" not in text


def test_help_has_a_panel_for_every_option_and_room_for_more(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = vaecli("train", "--help").out
    assert len(text.splitlines()) <= 100
    panels = ["Data", "Model", "Objective", "Training", "Output and messages", "Machine"]
    assert re.findall(r"^╭─ (.*?) ─", text, re.MULTILINE) == panels
    assert re.findall(r"VAECLI_\w+", text) == ["VAECLI_TRAIN_SEED", *SHORT_VARIABLES.values()]


def test_every_variable_is_named_after_its_option() -> None:
    import typer

    group: Any = typer.main.get_command(commands.app)
    for command in [group.get_command(None, name) for name in group.list_commands(None)]:
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                names = {name[2:].replace("-", "_") for name in parameter.opts}
                assert parameter.name in names, f"{command.name} {parameter.opts}"


def test_an_unknown_command(vaecli: Vaecli) -> None:
    assert vaecli("trian").code == 2
    assert "train" in vaecli("trian").err


def test_no_run_is_exit_4_with_the_command_to_run(vaecli: Vaecli) -> None:
    for model in ([], ["-m", "nowhere"]):
        outcome = vaecli("eval", *model)
        assert outcome.code == ExitCode.MODEL
        assert "vaecli train" in outcome.err


def test_no_such_device(vaecli: Vaecli, trained: Path) -> None:
    outcome = vaecli("eval", "-m", trained, "--device", "cuda:7")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "--device cpu" in outcome.err


def test_data_that_is_absent(vaecli: Vaecli) -> None:
    outcome = vaecli("train", "--data", "kmnist")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "KMNIST" in outcome.err


def test_the_same_output_again(vaecli: Vaecli) -> None:
    command = [*TRAIN, "--epochs", "1", "-o", "out"]
    assert vaecli(*command).code == 0
    weights = Path("out/model.safetensors").read_bytes()
    again = vaecli(*command)
    assert (again.code, again.out) == (0, "out\n")
    assert "nothing to do" in again.err
    other = vaecli(*command, "--latent-dim", "3")
    assert other.code == ExitCode.USAGE
    assert "latent_dim: 8, not 3" in other.err
    assert Path("out/model.safetensors").read_bytes() == weights
    forced = vaecli(*command, "--latent-dim", "3", "--force")
    assert forced.code == 0
    assert Path("out/model.safetensors").read_bytes() != weights


def test_a_folder_that_is_no_run_is_never_touched(vaecli: Vaecli) -> None:
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_text("cat")
    for force in ([], ["--force"]):
        outcome = vaecli(*TRAIN, "-o", "photos", *force)
        assert outcome.code == ExitCode.USAGE
        assert os.listdir("photos") == ["cat.jpg"]
    Path("file").write_text("x")
    assert vaecli(*TRAIN, "-o", "file", "--force").code == ExitCode.USAGE


def test_a_model_of_another_tool_is_never_touched(vaecli: Vaecli) -> None:
    Path("bert").mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        Path("bert", name).write_text('{"model_type": "bert"}')
    assert vaecli(*TRAIN, "-o", "bert", "--force").code == ExitCode.USAGE
    assert {path.read_text() for path in Path("bert").iterdir()} == {'{"model_type": "bert"}'}


def test_force_keeps_what_others_put_into_a_run(vaecli: Vaecli) -> None:
    vaecli(*TRAIN, "--epochs", "1", "-o", "out")
    for name in ("out/notes.txt", "out/state/mine.txt"):
        Path(name).write_text("mine")
    assert vaecli(*TRAIN, "--epochs", "1", "-o", "out", "--force").code == 0
    assert Path("out/notes.txt").read_text() == Path("out/state/mine.txt").read_text() == "mine"


def test_resume_agrees_with_what_is_given(vaecli: Vaecli, trained: Path) -> None:
    assert vaecli("train", "--resume", trained).code == 0
    outcome = vaecli("train", "--resume", trained, "--lr", "0.5")
    assert outcome.code == ExitCode.USAGE
    assert "--lr" in outcome.err
    assert vaecli("train", "--resume", trained, "-o", "x").code == ExitCode.USAGE
    assert vaecli("train", "--resume", "latest").code == ExitCode.MODEL


def test_dry_run_writes_nothing(vaecli: Vaecli) -> None:
    outcome = vaecli(*TRAIN, "--dry-run", "-o", "out")
    assert outcome.code == 0
    assert "steps\t20 epochs of 8 steps of 64 images" in outcome.out
    plan = json.loads(vaecli(*TRAIN, "--dry-run", "--json").out)
    assert plan["model"]["latent_dim"] == 8
    assert plan["training"]["steps_per_epoch"] == 8
    assert plan["epoch_seconds"] > 0
    assert "\ntime\tan epoch takes " in outcome.out
    assert os.listdir() == []


def test_option_beats_environment_beats_file_beats_default(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epochs(*arguments: str) -> int:
        outcome = vaecli("train", "--data", "mnist", "--dry-run", "--json", *arguments)
        return int(json.loads(outcome.out)["training"]["epochs"])

    assert epochs() == 20
    Path("vaecli.toml").write_text("epochs = 3\nquiet = true\n[eval]\nlimit = 5\n")
    assert epochs() == 3
    Path("vaecli.toml").write_text("epochs = 3\n[train]\nepochs = 4\nhidden = [30, 20]\n")
    assert epochs() == 4
    Path("other.toml").write_text("[train]\nepochs = 5\n")
    assert epochs("--config", "other.toml") == 5
    monkeypatch.setenv("VAECLI_CONFIG", "other.toml")
    assert epochs() == 5
    monkeypatch.setenv("VAECLI_TRAIN_EPOCHS", "6")
    assert epochs() == 6
    assert epochs("--epochs", "7") == 7


def test_a_long_variable_beats_a_short_one(vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DEVICE", "cuda:9")
    assert vaecli("train", "--dry-run", "--data", "mnist").code == ExitCode.ENVIRONMENT
    monkeypatch.setenv("VAECLI_TRAIN_DEVICE", "cpu")
    assert vaecli("train", "--dry-run", "--data", "mnist").code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", ("epoch", "'epochs'")),
        ("[train]\nlatent_dims = 3", ("[train] latent_dims", "'latent-dim'")),
        ("[trian]\nepochs = 3", ("trian",)),
        ("epochs = 'many'", ("epochs", "vaecli.toml")),
        ("quiet = 3", ("quiet", "true or false")),
        ("epochs = [", ("vaecli.toml",)),
        ("train = 3", ("[train]",)),
        ("hidden = 'wide'", ("vaecli.toml: hidden: wide: not a list",)),
    ],
)
def test_a_bad_file_is_exit_2(vaecli: Vaecli, text: str, words: tuple[str, ...]) -> None:
    Path("vaecli.toml").write_text(text)
    outcome = vaecli("train", "--data", "mnist", "--dry-run")
    assert outcome.code == ExitCode.USAGE
    assert all(word in outcome.err for word in words), outcome.err


def test_control_characters_in_names_are_escaped(vaecli: Vaecli) -> None:
    outcome = vaecli("eval", "-m", "a\x1b[31m\n\udcffb")
    assert outcome.code == ExitCode.MODEL
    assert "\\x1b[31m\\n\\udcff" in outcome.err


def test_a_bug_asks_for_a_report(vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("vaecli.runs.load.load_model", explode)
    with bug_expected("ZeroDivisionError: oh"):
        outcome = vaecli("eval")
        shown = vaecli("eval", "--debug")
    assert outcome.code == ExitCode.FAILURE
    assert "bug" in outcome.err
    assert "--debug" in outcome.err
    assert "Traceback" in shown.err


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vaecli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_locale_without_utf8_and_no_terminal(trained: Path) -> None:
    """Streams that fail are the matrix of test_environment.py."""
    full = process("eval", "-m", trained, env={**os.environ, "LC_ALL": "C", "FORCE_COLOR": "1"})
    assert full.returncode == 0
    assert "\x1b" not in full.stderr
