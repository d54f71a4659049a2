"""What differs on Windows, by a double of it and by answers that Windows gives."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from conftest import TRAIN, Vaecli
from doubles.windows import NtOs, changed, real_takes_escapes
from vaecli.cli import app, outputs
from vaecli.data.named import http_download
from vaecli.errors import ExitCode, UsageError
from vaecli.system import files, shell, signals
from vaecli.terminal import terminal as ui

NT = NtOs("os")


@pytest.fixture
def nt(monkeypatch: pytest.MonkeyPatch) -> NtOs:
    """`os` says that this is Windows to vaecli's own files."""
    for module in (app, files, shell):
        monkeypatch.setattr(module, "os", NT)
    for name in ("open", "write", "close", "replace", "unlink"):
        monkeypatch.setattr(files.system, name, getattr(NT, name))
    monkeypatch.setattr(files, "HELD_OPEN_WAIT", 0.3)
    monkeypatch.setattr(shell, "takes_escapes", lambda descriptor: False)
    return NT


def test_all_commands_under_the_double(
    vaecli: Vaecli, trained: Path, data_dir: Path, tmp_path: Path
) -> None:
    grown = [*TRAIN, "--schedule", "constant", "--data-dir", str(data_dir)]
    for name in ("a.png", "b.png"):
        Image.new("L", (28, 28), 10).save(name)  # level 10 is a line feed
    lines = [
        [*TRAIN, "--epochs", "2", "--data-dir", str(data_dir), "-o", "run"],
        [*grown, "--epochs", "1", "-o", "grown"],
        ["train", "--resume", "grown", "--epochs", "2", "--data-dir", str(data_dir)],
        ["eval", "-m", "run", "--data-dir", str(data_dir), "--per-image", "scores.csv"],
        ["reconstruct", "?.png", "-m", "run", "--grid", "grid.png", "-o", "out/"],
        ["sample", "-m", "run", "-n", "4"],
        ["sample", "-m", "run", "-n", "4", "--force"],
        ["export", "-m", "run", "--format", "safetensors"],
        ["export", "-m", "run", "--format", "html", "--data-dir", str(data_dir)],
    ]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "doubles.windows", json.dumps(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(Path("double.json").read_text())
    assert told == {"codes": [0] * len(lines), "changed": [], "refused": []}, done.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.recon.png", "b.recon.png"]
    assert vaecli(*grown, "--epochs", "2", "-o", "straight").code == 0
    for ours, theirs in ((Path("run"), trained), (Path("grown"), Path("straight"))):
        weights = "model.safetensors"
        assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    assert b"\r" not in Path("run/metrics.csv").read_bytes()


def test_the_double_writes_text_unless_told(tmp_path: Path) -> None:
    for flags, written in ((0, b"a\r\nb"), (NT.O_BINARY, b"a\nb")):
        descriptor = NT.open(tmp_path / f"{flags}", os.O_WRONLY | os.O_CREAT | flags)
        assert NT.write(descriptor, b"a\nb") == 3
        NT.close(descriptor)
        assert (tmp_path / f"{flags}").read_bytes() == written
    assert changed.pop() == (str(tmp_path / "0"), 3, 4)


def test_a_file_held_open_is_waited_for(
    nt: NtOs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"old")
    calls = 0
    holder = path.open("rb")

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            holder.close()
        nt.replace(source, target)

    monkeypatch.setattr(files.system, "replace", replace)
    files.atomic_write(path, b"new\n")
    assert (path.read_bytes(), calls) == (b"new\n", 3)
    with path.open("rb"), pytest.raises(PermissionError, match="a spreadsheet"):
        files.remove(path)
    files.remove(path)
    assert not path.exists()


def test_a_file_that_stays_open_gives_a_sentence(vaecli: Vaecli, trained: Path, nt: NtOs) -> None:
    Path("x.png").write_bytes(b"old")
    start = time.monotonic()
    with Path("x.png").open("rb"):
        outcome = vaecli("sample", "-m", trained, "-n", 1, "-o", "x.png", "--force")
    assert time.monotonic() - start > files.HELD_OPEN_WAIT
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "x.png: " in outcome.err
    assert "another program may have the file open (a spreadsheet, a virus" in outcome.err
    assert Path("x.png").read_bytes() == b"old"
    assert not list(Path().glob(f"{files.TEMPORARY_PREFIX}*"))


def test_elsewhere_a_refusal_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(source: Path, target: Path) -> None:
        calls.append(target)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "os", os)
    monkeypatch.setattr(files.system, "replace", refuse)
    with pytest.raises(PermissionError) as caught:
        files.atomic_write(tmp_path / "x", b"")
    assert len(calls) == 1
    assert "another program" not in str(caught.value)


def test_a_folder_is_no_regular_file(nt: NtOs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a regular file"):
        files.read_capped(tmp_path, 10)


@pytest.mark.parametrize(
    ("shell_name", "quoted"),
    [
        ("cmd", r'"C:\my runs\it' + "'" + r's $1" runs\002'),
        ("powershell", r"'C:\my runs\it''s $1' runs\002"),
        ("bash", r"""'C:\my runs\it'"'"'s $1' 'runs\002'"""),
    ],
)
def test_a_command_is_quoted_for_the_shell_at_hand(
    nt: NtOs, monkeypatch: pytest.MonkeyPatch, shell_name: str, quoted: str
) -> None:
    import shellingham

    monkeypatch.setattr(shellingham, "detect_shell", lambda: (shell_name, "x.exe"))
    assert shell.join([r"C:\my runs\it's $1", r"runs\002"]) == quoted


def test_without_a_known_shell_commands_are_quoted_for_cmd(
    nt: NtOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shellingham

    def fails() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", fails)
    assert shell.join(["a b"]) == '"a b"'


def test_elsewhere_commands_are_quoted_for_a_posix_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "os", os)
    assert shell.join(["vaecli", "a b", "c$d"]) == "vaecli 'a b' 'c$d'"


def test_wildcards_that_the_shell_left(
    nt: NtOs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "[x].png"):
        Path(name).touch()
    assert list(shell.expanded(["?.png", "[x].png", "no*.png", "-"])) == [
        "a.png", "b.png", "[x].png", "no*.png", "-",
    ]  # fmt: skip
    monkeypatch.setattr(shell, "os", os)
    assert list(shell.expanded(["?.png"])) == ["?.png"]


@pytest.mark.parametrize(
    ("is_console", "obeys", "expected"), [(0, 1, False), (1, 0, False), (1, 1, True)]
)
def test_escapes_are_switched_on_or_not_used(
    nt: NtOs, monkeypatch: pytest.MonkeyPatch, is_console: int, obeys: int, expected: bool
) -> None:
    """GetConsoleMode and SetConsoleMode decide; bit 2 is virtual terminal processing."""
    modes = []

    def get_mode(console: ctypes.c_void_p, mode: object) -> int:
        assert console.value == 70 + 2
        mode._obj.value = 3  # type: ignore[attr-defined]
        return is_console

    def set_mode(console: ctypes.c_void_p, mode: int) -> int:
        modes.append(mode)
        return obeys

    kernel = SimpleNamespace(GetConsoleMode=get_mode, SetConsoleMode=set_mode)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    msvcrt = SimpleNamespace(get_osfhandle=lambda descriptor: 70 + descriptor)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(shell, "takes_escapes", real_takes_escapes)
    assert shell.takes_escapes(2) is expected
    assert modes == ([7] if is_console else [])


def test_a_console_without_escapes_gets_plain_lines(
    nt: NtOs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = ui.Terminal()
    assert (terminal.live, terminal.draws) == (False, False)
    monkeypatch.setattr(shell, "takes_escapes", lambda descriptor: True)
    assert terminal.live


@pytest.mark.parametrize(("system", "code"), [(NT, 141), (os, 5)])
def test_a_pipe_nobody_reads_is_einval(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch, system: object, code: int
) -> None:
    def closed(terminal: ui.Terminal, text: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(ui.Terminal, "data", closed)
    monkeypatch.setattr(app, "os", system)
    outcome = vaecli("sample", "-m", trained, "-n", 1, "-o", "x.png")
    assert outcome.code == code
    assert ("error" in outcome.err) is (code != ExitCode.BROKEN_PIPE)


def test_ctrl_break_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "CTRL_BREAK", 21)
    flag = signals.StopFlag()
    with pytest.raises(KeyboardInterrupt):
        flag._handle(21, None)
    assert flag.exit_code == ExitCode.INTERRUPTED


def test_a_download_waits_in_turns_that_ctrl_c_can_interrupt() -> None:
    waits = []

    class Silent(queue.SimpleQueue[http_download.Item]):
        def get(self, block: bool = True, timeout: float | None = None) -> http_download.Item:
            waits.append(timeout)
            return super().get(block, timeout)

    start = time.monotonic()
    with pytest.raises(queue.Empty):
        http_download._get(Silent(), 0.5)
    assert 0.5 <= time.monotonic() - start < 2
    assert len(waits) >= 3
    assert all(wait is not None and wait <= 0.25 for wait in waits)
    full = Silent()
    full.put((b"x", 1))
    assert http_download._get(full, 0.0) == (b"x", 1)


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    folder = tmp_path / "Out"
    folder.mkdir()
    paths = [folder / "A.recon.png", folder / "b.recon.png", folder / "a.recon.png"]
    names = ["A.png", "b.png", "a.jpg"]
    if not (tmp_path / "oUT").exists():
        outputs.require_distinct(paths, names)
        (tmp_path / "oUT").symlink_to(folder)  # as it seems where case does not count
    with pytest.raises(UsageError, match=r"A\.png and a\.jpg would both be written"):
        outputs.require_distinct(paths, names)


def test_a_configuration_as_notepad_and_powershell_save_it(vaecli: Vaecli, trained: Path) -> None:
    text = "[sample]\ncolumns = 4\n"
    Path("bom.toml").write_bytes(text.encode("utf-8-sig"))
    assert vaecli("sample", "-m", trained, "-c", "bom.toml", "-n", 4).code == 0
    Path("wide.toml").write_bytes(text.encode("utf-16"))
    outcome = vaecli("sample", "-m", trained, "-c", "wide.toml", "-n", 4)
    assert outcome.code == ExitCode.USAGE
    assert outcome.err == (
        "vaecli: error: --config wide.toml: it is not UTF-8. Save it as UTF-8.\n"
    )
