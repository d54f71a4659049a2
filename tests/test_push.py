"""export --format hub: what a loopback Hub was sent, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from conftest import Vaecli
from loopback import served
from test_hub import needs_hub
from vaecli.errors import ExitCode
from vaecli.runs.directory import OWN_FILES, WEIGHTS

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The little of the Hub that an upload needs; a token is needed for it."""

    made: dict[str, bool]
    got: dict[str, bytes]

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._reply(401, {"error": "who are you"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._reply(200, {"errors": [], "warnings": []})
        if self.path.split("?")[0].endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"] == WEIGHTS else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._reply(200, {"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self._own}/put/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._reply(200, {"transfer": "basic", "objects": objects})
        if self.path.split("?")[0].endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.got[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.got[value["path"]] = self.got.pop(value["oid"])
            url = f"{self._own}/someone/digits/commit/{SHA}"
            return self._reply(200, {"commitUrl": url, "commitOid": SHA})
        return self._reply(404, {})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(data).hexdigest() == self.path.rsplit("/", 1)[1]
        self.got[self.path.rsplit("/", 1)[1]] = data
        self._reply(200, {})

    def do_GET(self) -> None:
        self._reply(404, {})

    do_HEAD = do_GET

    def _create(self, asked: dict[str, Any]) -> None:
        name = "someone/" + asked["name"].removeprefix("someone/")
        if name in self.made:
            return self._reply(409, {"error": "exists", "url": f"{self._own}/{name}"})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.made[name] = bool(private)
        return self._reply(200, {"url": f"{self._own}/{name}", "name": name})

    @property
    def _own(self) -> str:
        return f"http://{self.headers['Host']}"

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        return data

    def _reply(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    Hub.made, Hub.got = {}, {}
    with served(Hub) as address:
        yield address


def push(
    server: str, folder: Path, *words: object, token: str = "hf_right"
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": server,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token,
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-m", "vaecli", "export", "--format", "hub", *map(str, words)],
        env={name: value for name, value in environment.items() if value},
        cwd=folder,
        capture_output=True,
        text=True,
    )


ADDRESS = "hf://someone/digits"


@needs_hub
def test_a_run_is_uploaded_without_its_state(server: str, trained: Path, tmp_path: Path) -> None:
    done = push(server, tmp_path, "-m", trained, "-o", ADDRESS, "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ADDRESS}\n"
    assert f"/someone/digits/commit/{SHA}" in done.stderr
    assert "%" not in done.stderr  # no bar
    assert Hub.made == {"someone/digits": True}
    assert Hub.got == {name: (trained / name).read_bytes() for name in OWN_FILES}

    again = push(server, tmp_path, "-m", trained, "-o", ADDRESS, "--json")
    assert again.returncode == ExitCode.USAGE
    assert "the repository exists" in json.loads(again.stdout)["error"]["message"]
    Hub.got.clear()
    forced = push(server, tmp_path, "-m", trained, "-o", ADDRESS, "--force", "--json")
    assert forced.returncode == 0, forced.stderr
    about = json.loads(forced.stdout)
    assert about["output"] == ADDRESS
    assert about["commit"].endswith(SHA)
    assert set(Hub.got) == {*OWN_FILES}


@needs_hub
def test_what_is_not_uploaded(server: str, trained: Path, tmp_path: Path) -> None:
    for token in ("hf_wrong", ""):
        denied = push(server, tmp_path, "-m", trained, "-o", ADDRESS, token=token)
        assert denied.returncode == ExitCode.ENVIRONMENT, denied.stderr
        assert "hf auth login" in denied.stderr
    nobody = push("http://127.0.0.1:9", tmp_path, "-m", trained, "-o", ADDRESS)
    assert nobody.returncode == ExitCode.ENVIRONMENT, nobody.stderr
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    card = (run / "README.md").read_text()
    for text, why in (
        (card + f"made in {run.resolve()}", "path of this machine"),
        (card + f"made in {Path.home()}/x", "path of this machine"),
        (card.replace("model-index:", "model-index: 3\nx:"), "card cannot be read"),
    ):
        (run / "README.md").write_text(text)
        outcome = push(server, tmp_path, "-m", run, "-o", ADDRESS)
        assert outcome.returncode == ExitCode.MODEL, outcome.stderr
        assert why in outcome.stderr
    (run / "README.md").unlink()
    outcome = push(server, tmp_path, "-m", run, "-o", ADDRESS)
    assert outcome.returncode == ExitCode.MODEL
    assert "it lacks README.md. Finish it with" in outcome.stderr
    assert Hub.made == {}


@needs_hub
@pytest.mark.parametrize(
    "words",
    [
        ("--format", "hub"),
        ("--format", "hub", "-o", "folder"),
        ("--format", "hub", "-o", "hf://someone"),
        ("--format", "hub", "-o", "hf://a/b@main"),
        ("--format", "hub", "-o", ADDRESS, "--no-download"),
        ("--format", "hub", "-o", ADDRESS, "--half"),
        ("--format", "hub", "-o", ADDRESS, "--part", "encoder"),
        ("--format", "onnx", "-o", ADDRESS),
        ("--format", "html", "--private"),
    ],
)
def test_contradictions(vaecli: Vaecli, trained: Path, words: tuple[str, ...]) -> None:
    assert vaecli("export", "-m", trained, *words).code == ExitCode.USAGE


@needs_hub
def test_a_loose_weights_file_is_no_run(vaecli: Vaecli, trained: Path) -> None:
    outcome = vaecli("export", "-m", trained / WEIGHTS, "--format", "hub", "-o", ADDRESS)
    assert outcome.code == ExitCode.USAGE
    assert "not a run directory" in outcome.err
