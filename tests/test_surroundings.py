"""What conftest.py puts around every test: no trace of the machine, no way out, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from surroundings import SOURCE, TESTS

posix = pytest.mark.skipif(os.name != "posix", reason="signals and sh as POSIX has them")

INNER = """
import os, pathlib, signal, socket, subprocess, sys, tempfile

def child(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout

def test_bare(tmp_path):
    strange = [name for name in os.environ if name.startswith(("VAECLI_", "HF_", "TORCH_", "MY_"))]
    python = [name for name in os.environ if name.startswith("PYTHON") and name != "PYTHONPATH"]
    assert strange == python == []
    home = pathlib.Path.home()
    assert os.listdir(home) == ["tmp"] or sorted(os.listdir(home)) == ["AppData", "tmp"]
    for place in (home, tempfile.gettempdir(), os.environ["LOCALAPPDATA"]):
        assert str(tmp_path.parent) in str(place)
    assert pathlib.Path.cwd() == tmp_path
    told = child("import os, signal; print(os.path.expanduser('~'));"
                 "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    assert told.split() == [str(home), "True"]

def test_another_home(tmp_path):
    (pathlib.Path.home() / "left").touch()

def test_that_was_not_the_home_of_this_one():
    assert not (pathlib.Path.home() / "left").exists()

def handled(deed):
    try:
        deed()
    except OSError:
        pass

def test_reaches_out():
    handled(lambda: socket.create_connection(("192.0.2.1", 80), 1))

def test_looks_up():
    handled(lambda: socket.getaddrinfo("example.org", 80))

def test_child_reaches_out():
    child("import socket; socket.create_connection(('192.0.2.1', 80), 1)")

def test_child_with_variables_of_its_own():
    script = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": "x"}, capture_output=True)

def test_writes_elsewhere():
    handled(lambda: open(ELSEWHERE + "/written", "w"))

def test_makes_a_folder_elsewhere():
    handled(lambda: os.mkdir(ELSEWHERE + "/made"))

def test_child_renames_elsewhere(tmp_path):
    (tmp_path / "here").touch()
    child(f"import os; os.rename('here', {ELSEWHERE!r} + '/there')")

def test_loopback(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    socket.getaddrinfo("localhost", 80)
    child("open('mine', 'w').close()")
    assert (tmp_path / "mine").exists()
"""
SOUND = {
    "test_bare", "test_another_home", "test_that_was_not_the_home_of_this_one", "test_loopback",
}  # fmt: skip


@posix
def test_no_test_can_lean_on_the_machine_or_leave_it(tmp_path: Path) -> None:
    """The suite's own conftest, on a machine that is as unlike a bare one as can be."""
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "machine"
    for folder in (elsewhere, home):
        folder.mkdir()
    inner = tmp_path / "test_inner.py"
    inner.write_text(f"ELSEWHERE = {str(elsewhere)!r}\n{INNER}")
    machine = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(tmp_path),
        "XDG_CACHE_HOME": str(elsewhere),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(SOURCE)]),
        "PYTHONUNBUFFERED": "1",
        "VAECLI_TRAIN_EPOCHS": "3",
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(elsewhere),
        "MY_OWN": "1",
    }
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", "-rA"]
    command = [sys.executable, "-m", "pytest", "-c", str(REPOSITORY / "pyproject.toml"), *options]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(inner)],
        env=machine, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    lines = [line.split(" - ")[0].split() for line in done.stdout.splitlines()]
    ends = {
        (words[0], words[1].split("::")[1]) for words in lines if words[1:2] and "::" in words[1]
    }
    refused = {name for what, name in ends if what == "ERROR"}
    assert not [name for what, name in ends if what == "FAILED"], done.stdout[-5000:]
    everything = {line.split("(")[0][4:] for line in INNER.splitlines() if line[:8] == "def test"}
    assert everything - refused == SOUND, done.stdout[-5000:]
    assert not list(elsewhere.iterdir())
    assert not list(home.iterdir())
