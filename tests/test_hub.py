from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from conftest import Vaecli
from loopback import served
from test_layers import modules_after
from vaecli.config import DataConfig, RunConfig
from vaecli.errors import ExitCode
from vaecli.runs.directory import Run, open_run
from vaecli.runs.load import load_model
from vaecli.training import report

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs vaecli[hub]"
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The little of the Hub that a download needs, for one repository: someone/digits."""

    folder: Path

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/someone/digits/tree/"):
            self._json([self._entry(file) for file in self._files()])
        elif path.startswith("/api/models/someone/digits"):
            names = [{"rfilename": file.name} for file in self._files()]
            self._json({"id": "someone/digits", "sha": COMMIT, "siblings": names})
        elif path.startswith("/someone/digits/resolve/"):
            self._file(self.folder / path.rsplit("/", 1)[1])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    def _entry(self, file: Path) -> dict[str, object]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        data = path.read_bytes()
        tag = hashlib.sha1(data).hexdigest()
        self._send(data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(trained: Path) -> Iterator[str]:
    Hub.folder = trained
    with served(Hub) as address:
        yield address


EXPORT = ("export", "-m", "hf://someone/digits", "--format", "safetensors")
COMMANDS = (
    (*EXPORT, "--no-download"),  # nothing in the cache yet
    ("sample", "-m", "hf://someone/else"),
    EXPORT,
    (*EXPORT, "--no-download"),
)
SCRIPT = """
import sys
from vaecli.cli import app as cli
for command in {commands!r}:
    print(cli.run(list(command)), flush=True)
    print("---", file=sys.stderr, flush=True)
"""


@needs_hub
def test_a_model_comes_from_the_hub_and_then_from_its_cache(
    server: str, tmp_path: Path, trained: Path
) -> None:
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": server,  # read when the library is imported, so in a process of its own
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(commands=COMMANDS)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    missing, unknown, first, cached, _ = done.stderr.split("---\n")
    assert done.stdout.split() == ["5", "4", "digits.safetensors", "0", "digits-2.safetensors", "0"]
    assert "not in the local cache" in missing
    assert "no such repository" in unknown
    assert "error" not in first + cached
    assert "%" not in first  # no bar
    for name in ("digits.safetensors", "digits-2.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained / "model.safetensors").read_bytes()
    downloaded = {path.name for path in tmp_path.rglob("*")}
    assert "metrics.csv" in downloaded
    assert "reconstructions.png" not in downloaded


@needs_hub
@pytest.mark.parametrize("address", ["hf://", "hf://only-a-name", "hf://a/b/c", "hf://../b"])
def test_what_is_no_address_is_refused(vaecli: Vaecli, address: str) -> None:
    outcome = vaecli("eval", "-m", address)
    assert outcome.code == ExitCode.MODEL
    assert "OWNER/NAME" in outcome.err


def test_the_library_is_not_imported_before_it_is_asked_for(trained: Path) -> None:
    code = f"from vaecli.runs.load import load_model; load_model({str(trained)!r})"
    loaded = modules_after(code)
    assert not {"vaecli.runs.hub", "huggingface_hub", "onnx", "onnxscript", "onnxruntime"} & loaded


@needs_hub
@pytest.mark.parametrize("name", ["mnist", "my: photos # 1\n---\n- 'x\""])
def test_the_card_is_one_the_hub_reads(trained: Path, name: str) -> None:
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import ModelCard

    found = open_run(trained)
    rows = found.read_metrics()
    config = found.config
    data = DataConfig(**{**vars(config.data), "name": name})
    renamed = RunConfig(
        model=config.model, training=config.training, data=data, environment=config.environment
    )
    text = report.card(Run(trained, renamed), rows)
    header = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert header["library_name"] == "vaecli"
    card = ModelCard(text, ignore_metadata_errors=False)
    found_results = card.data.eval_results  # type: ignore[attr-defined]
    results = {result.metric_type: result for result in found_results}
    assert results["elbo"].metric_value == pytest.approx(-rows[-1].test_loss, abs=1e-3)
    assert results["elbo"].dataset_name == name
    assert results["elbo"].dataset_split == "test"
    assert set(results) == {"elbo", "distortion", "rate"}
    assert (trained / "README.md").read_text().startswith("---\n")


def test_metrics_come_back_as_written(trained: Path, tmp_path: Path) -> None:
    found = open_run(trained)
    rows = found.read_metrics()
    assert [row.epoch for row in rows] == [1, 2]
    copy = Run(tmp_path, found.config)
    copy.write_metrics(rows)
    assert (tmp_path / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()


def test_the_name_of_a_model(trained: Path) -> None:
    assert load_model(str(trained)).name == "run"
    assert load_model(str(trained / "model.safetensors")).name == "model"
