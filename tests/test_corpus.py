"""Every file of tests/corpus/ through the command it is meant for: the code, the words, at once."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
import time
from pathlib import Path

import pytest

from command import peak_memory
from conftest import REPOSITORY, Vaecli
from vaecli.cli import app
from vaecli.config import ModelConfig
from vaecli.model.vae import build
from vaecli.runs import weights
from vaecli.system.size_limits import MAX_RUN_CONFIG_BYTES

CORPUS = REPOSITORY / "tests/corpus"
with (CORPUS / "expected.csv").open(newline="") as _file:
    ROWS = {row["file"]: row for row in csv.DictReader(_file)}
SECONDS = 2
MEMORY = 64 * 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a grey 8 x 8 model with two latents."""
    config = ModelConfig(image_shape=(1, 8, 8), hidden=(5,), latent_dim=2)
    path = tmp_path_factory.mktemp("corpus") / "model.safetensors"
    path.write_bytes(weights.encode_model(config, build(config, seed=0).weights()))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A copy of a run whose files may be replaced."""
    path = tmp_path_factory.mktemp("corpus") / "run"
    shutil.copytree(trained, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _warm(model: Path, run: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What every command imports and compiles belongs to no file."""
    folder = tmp_path_factory.mktemp("warm")
    shutil.copy(CORPUS / "images/good.png", folder)
    shutil.copy(CORPUS / "arrays/good.npy", folder)
    for words in (
        ["reconstruct", folder / "good.png", "-m", model, "-o", folder / "out.png"],
        ["train", "--data", folder / "good.npy", "--data-dir", folder, "--dry-run"],
        ["train", "--resume", run, "--data-dir", data_dir, "--no-download"],
    ):
        assert app.run([str(word) for word in [*words, "-q"]]) == 0


def arguments(file: Path, kind: str, model: Path, run: Path, data_dir: Path) -> list[object]:
    """The command line that meets a file of this kind."""
    if kind == "config":
        shutil.copy(file, run / "config.json")
    if kind == "manifest":
        known = json.loads((run / "state/manifest.json").read_text())["run"].encode()
        (run / "state/manifest.json").write_bytes(file.read_bytes().replace(b"RUN", known))
    small = ["--latent-dim", "2", "--dry-run", "-q"]
    offline = ["--data-dir", data_dir, "--no-download"]
    return {
        "images": ["reconstruct", file, "-m", model, "-o", "out.png"],
        "weights": ["sample", "-m", file, "-n", "1", "-o", "out.png"],
        "config": ["eval", "-m", run, *offline],
        "manifest": ["train", "--resume", run, "-q", *offline],
        "arrays": ["train", "--data", file, "--data-dir", "cache", *small],
        "latents": ["sample", "-m", model, "--latents", file, "-o", "out.npy"],
        "toml": ["train", "--config", file, "--data", "mnist", *offline, "--dry-run"],
    }[kind]


@pytest.mark.parametrize("name", ROWS)
def test_each_file_gets_its_answer(
    name: str, model: Path, run: Path, trained: Path, data_dir: Path, vaecli: Vaecli
) -> None:
    kind = name.split("/")[0] if not name.startswith("found/") else name.split("/")[1]
    words = arguments(CORPUS / name, kind, model, run, data_dir)
    memory = peak_memory()
    start = time.perf_counter()
    outcome = vaecli(*words)
    seconds, grown = time.perf_counter() - start, memory()
    if seconds >= SECONDS:  # the machine may have been busy: once more
        start = time.perf_counter()
        outcome = vaecli(*words)
        seconds = time.perf_counter() - start
    for file in ("config.json", "state/manifest.json"):
        shutil.copy(trained / file, run / file)
    row = ROWS[name]
    assert outcome.code == int(row["exit"]), outcome.err
    assert row["words"] in outcome.err
    if outcome.code:
        assert outcome.err.startswith("vaecli: error: ")
        assert outcome.err.count("\n") == 1
        assert len(outcome.err) < 2000
    assert seconds < SECONDS
    assert grown <= MEMORY


def test_every_file_has_an_answer_and_is_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file() and path.parent != CORPUS]
    files = [path for path in files if "__pycache__" not in path.parts]
    assert {str(path.relative_to(CORPUS)) for path in files} == set(ROWS)
    assert sum(path.stat().st_size for path in files) < 2**21


def test_the_script_makes_all_but_what_was_found() -> None:
    folders = runpy.run_path(str(CORPUS / "make.py"))["FOLDERS"]
    made = {f"{folder}/{case[0]}" for folder, cases in folders.items() for case in cases()}
    assert made == {name for name in ROWS if not name.startswith("found/")}


def test_a_configuration_of_too_many_bytes(run: Path, trained: Path, vaecli: Vaecli) -> None:
    config = run / "config.json"
    config.write_text(config.read_text() + " " * MAX_RUN_CONFIG_BYTES)
    outcome = vaecli("eval", "-m", run)
    shutil.copy(trained / "config.json", config)
    assert outcome.code == 4
    assert f"more than the limit of {MAX_RUN_CONFIG_BYTES:,}" in outcome.err
