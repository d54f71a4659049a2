"""Real processes that are stopped, killed, locked out or refused: exit code, words, leavings."""

from __future__ import annotations

import ctypes
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import TRAIN, Vaecli
from test_crash import result
from vaecli.errors import ExitCode
from vaecli.runs import directory
from vaecli.runs.directory import METRICS, WEIGHTS, open_run
from vaecli.system import files
from vaecli.training.checkpoint import Checkpoints

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's own system calls")
has_sighup = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
VAECLI = [sys.executable, "-m", "vaecli"]
# long enough to be stopped, and slow enough in each step to be met in the middle of one
LONG = [*TRAIN, "--epochs", "2000", "--no-download"]
SHORT = [*TRAIN, "--epochs", "2", "--no-download"]


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*VAECLI, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> float:
    """Wait until `condition`, while the process lives; the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < began + 60
        time.sleep(0.02)
    return time.monotonic() - began


def stop(process: subprocess.Popen[str], *signals: int) -> tuple[int, str, float]:
    """Send signals; exit code, stderr, and the seconds it took."""
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err, time.monotonic() - began


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("SIGTERM", 143),
        ("SIGINT", 130),
        pytest.param("SIGHUP", 129, marks=has_sighup),
    ],
)
def test_a_signal_saves_and_prints_what_continues(
    tmp_path: Path, data_dir: Path, number: str, code: int, vaecli: Vaecli
) -> None:
    name = "my run's"  # a name that a shell must be shielded from
    process = start(*LONG, "--data-dir", data_dir, "-o", name, cwd=tmp_path)
    start_up = wait_for((tmp_path / name / METRICS).exists, process)
    returned, err, seconds = stop(process, getattr(signal, number))
    # starting takes 2 s: where it takes longer the machine is busy with other things
    assert (returned, seconds < max(5, start_up)) == (code, True)
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    words = shlex.split(last[last.index("vaecli train --resume") :])
    assert words[:4] == ["vaecli", "train", "--resume", name]
    assert vaecli(*words[1:], "--dry-run").code == 0
    committed = json.loads((tmp_path / name / "state/manifest.json").read_text())
    assert committed["generations"]
    assert not committed["finished"]


TWO_SIGNALS = """
import os, signal, time
from vaecli.system.signals import stop_flag
stop_flag.install()
with stop_flag.deferred():
    os.kill(os.getpid(), signal.SIGINT)
    print("deferred", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    print("still here", flush=True)
"""


def test_the_second_signal_does_not_wait() -> None:
    command = [sys.executable, "-c", TWO_SIGNALS]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (ExitCode.INTERRUPTED, "deferred\n")


def test_the_second_signal_leaves_at_once(tmp_path: Path, data_dir: Path) -> None:
    """Whatever the moment: the commit before is intact, and the same command goes on."""
    command = [*LONG, "--data-dir", data_dir, "-o", "out"]
    process = start(*command, cwd=tmp_path)
    wait_for((tmp_path / "out" / METRICS).exists, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    code, err, _ = stop(process, signal.SIGINT)
    assert code in (130, -signal.SIGINT)  # the latter when Python itself is ending
    assert "Traceback" not in err
    Checkpoints.of(open_run(tmp_path / "out"))
    quick = start("eval", "-m", "out", "--data-dir", data_dir, "--no-download", cwd=tmp_path)
    assert stop(quick)[0] == 0


@pytest.mark.parametrize("delay", [0.2, 0.6, 1.0, 1.4])
def test_a_signal_while_starting_is_clean(tmp_path: Path, data_dir: Path, delay: float) -> None:
    """Python's own start, imports, reading data: nothing but the exit code and one line."""
    process = start(*LONG, "--data-dir", data_dir, "-o", "out", cwd=tmp_path)
    time.sleep(delay)
    code, err, _ = stop(process, signal.SIGTERM)
    assert code in (143, -signal.SIGTERM)  # the latter before our first line has run
    assert "Traceback" not in err
    assert "error" not in err


@has_sighup
def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, data_dir: Path) -> None:
    """As under nohup."""
    process = start(
        *SHORT, "--data-dir", data_dir, "-o", "out",
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    time.sleep(0.5)
    assert stop(process, signal.SIGHUP)[0] == 0


def test_a_signal_while_options_are_read_keeps_its_exit_code(tmp_path: Path) -> None:
    """Typer evaluates annotations; `python -m` would then end by SIGINT, whatever the signal."""
    (tmp_path / "interrupted.py").write_text("""
import os, signal
from vaecli.__main__ import main
from vaecli.cli import commands
commands.app = lambda *words, **options: eval("os.kill(os.getpid(), signal.SIGTERM)")
main()
""")
    command = [sys.executable, "-m", "interrupted", "eval"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (ExitCode.TERMINATED, "vaecli: stopped.\n")


SIGNAL_IN = """
import os, signal, sys, vaecli.{module}
original = vaecli.{module}.{function}
def interrupted(*arguments, **options):
    vaecli.{module}.{function} = original
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments, **options)
vaecli.{module}.{function} = interrupted
from vaecli.system.signals import stop_flag
stop_flag.install()
from vaecli.cli import app as cli
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("evaluation.evaluate", "elbo_terms"),  # the test pass
        ("pictures.plots", "curves"),  # pictures
        ("training.checkpoint", "canonical_json"),  # within a commit
    ],
)
def test_a_signal_anywhere_else(
    tmp_path: Path, data_dir: Path, module: str, function: str, vaecli: Vaecli
) -> None:
    command = [*SHORT, "--data-dir", data_dir, "-o", "out"]
    script = SIGNAL_IN.format(module=module, function=function)
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, command)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == ExitCode.TERMINATED, process.stderr
    assert "--resume out" in process.stderr
    assert "Traceback" not in process.stderr
    assert vaecli(*command, "-q").code == 0
    assert vaecli(*command[:-1], "straight", "-q").code == 0
    assert result(tmp_path / "out") == result(tmp_path / "straight")


DIE_AT = """
import os, sys
from vaecli.cli import app as cli
from vaecli.system import files
from vaecli.training import commits
commits.COMMIT_EVERY = 0
left = int(sys.argv.pop(1))
def dying(call):
    def wrapped(*arguments):
        global left
        left -= 1
        if left == 0:
            os._exit(137)
        return call(*arguments)
    return wrapped
for name in vars(files.OperatingSystem):
    if not name.startswith("_"):
        setattr(files.system, name, dying(getattr(os, name)))
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("call", [40, 65])
def test_a_process_that_dies_at_a_call(
    tmp_path: Path, data_dir: Path, call: int, vaecli: Vaecli
) -> None:
    """What test_crash.py does in-process, with a death that is real; the lock dies with it."""
    command = [*SHORT, "--data-dir", data_dir, "-o", "out", "-q"]
    script = [sys.executable, "-c", DIE_AT, str(call), *map(str, command)]
    died = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert died.returncode == 137, died.stderr
    assert vaecli(*command).code == 0
    command[command.index("out")] = "straight"
    assert vaecli(*command).code == 0
    assert result(tmp_path / "out") == result(tmp_path / "straight")


def test_a_second_process_is_exit_7(tmp_path: Path, data_dir: Path, vaecli: Vaecli) -> None:
    command = [*LONG, "--data-dir", data_dir, "-o", "out"]
    process = start(*command, cwd=tmp_path)
    wait_for((tmp_path / "out" / METRICS).exists, process)
    try:
        for second in (command, [*command, "--force"], ["train", "--resume", "out"]):
            refused = vaecli(*second, "--data-dir", data_dir, "-q")
            assert refused.code == ExitCode.BUSY
            assert f"process {process.pid} on " in refused.err
            assert refused.err.count("\n") == 1
        assert vaecli("eval", "-m", "out", "--data-dir", data_dir).code == 0  # readers may read
    finally:
        process.kill()
        process.communicate()
    # the kernel has freed the lock
    assert vaecli(*SHORT, "--data-dir", data_dir, "-o", "out", "--force", "-q").code == 0


def in_a_full_disk(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which $DISK is a file system of 500 kB."""
    setup = "DISK=$(mktemp -d) && mount -t tmpfs -o size=1500k none $DISK || exit 99\n"
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", setup + script], capture_output=True, text=True, check=False
    )


def require_small_disks() -> None:
    if shutil.which("unshare") is None or in_a_full_disk("true").returncode:
        pytest.skip("needs unshare and the right to mount a tmpfs in a namespace")


@linux
def test_a_disk_too_small_is_refused_before_the_first_step(data_dir: Path) -> None:
    require_small_disks()
    command = shlex.join([*VAECLI, *SHORT, "--data-dir", str(data_dir)])
    outcome = in_a_full_disk(f'{command} -q -o "$DISK/out"; echo "rc $?"; ls -A "$DISK/out/state"')
    assert "rc 5\n" in outcome.stdout, outcome
    assert "MB are needed" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout.split("rc 5\n")[1].split() == ["lock"]


@linux
def test_a_disk_that_fills_up_keeps_the_old_state(data_dir: Path, tmp_path: Path) -> None:
    """The disk is filled by another program once training has begun."""
    require_small_disks()
    small = ["--hidden", "4", "--latent-dim", "2", "--batch-size", "64", "--data", "mnist"]
    command = shlex.join(
        [*VAECLI, "train", *small, "--schedule", "constant", "--no-download", "--data-dir",
         str(data_dir)]
    )  # fmt: skip
    script = f"""
    {command} -q -e 1 -o "$DISK/out" >/dev/null; echo "rc $?"
    cat /dev/zero > "$DISK/other" 2>/dev/null
    {command} -q -e 2 -o "$DISK/out"; echo "rc $?"
    ls -A "$DISK/out" "$DISK/out/state" | grep vaecli-tmp
    rm "$DISK/other"
    {command} -q -e 2 -o "$DISK/out" >/dev/null; echo "rc $?"
    """
    outcome = in_a_full_disk(script)
    assert re.findall(r"rc (\d+)", outcome.stdout) == ["0", "5", "0"], outcome
    assert "vaecli-tmp" not in outcome.stdout
    assert outcome.stderr.count("\n") == 1


def powerless() -> None:
    """Give up root's right to pass over file permissions (CAP_DAC_*, CAP_FOWNER), for good."""
    prctl_drop_from_bounding_set = 24
    for capability in (1, 2, 3):
        ctypes.CDLL(None).prctl(prctl_drop_from_bounding_set, capability, 0, 0, 0)


@linux
def test_no_permission_is_exit_5_and_readers_do_not_mind(
    tmp_path: Path, data_dir: Path, trained: Path
) -> None:
    out = tmp_path / "read-only"
    shutil.copytree(trained, out)
    (out / METRICS).unlink()  # so that there is something to do
    for folder in (out / "state", out):
        folder.chmod(0o555)
    (out / "state/lock").chmod(0o444)
    data = ["--data-dir", data_dir, "--no-download"]
    try:
        for command in (["--resume", out], [*SHORT[1:], "-o", out / "new"]):
            outcome = start("train", *command, *data, "-q", preexec_fn=powerless)
            _, err = outcome.communicate()
            assert outcome.returncode == ExitCode.ENVIRONMENT, err
            assert "ermission" in err
            assert err.count("\n") == 1
        reader = start("eval", "-m", out, *data, preexec_fn=powerless)
        assert reader.communicate()[0]
        assert reader.returncode == 0
    finally:
        for folder in (out, out / "state"):
            folder.chmod(0o755)


def test_preflight_refuses_a_disk_with_too_little_room(
    vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*SHORT, "--data-dir", data_dir, "-o", "out"]
    with monkeypatch.context() as patch:  # undoing all would leave the test's own folder
        patch.setattr(files, "free_space", lambda folder: 3_000_000)
        refused = vaecli(*command)
    assert refused.code == ExitCode.ENVIRONMENT
    assert "3.0 MB of disk space are free" in refused.err
    assert not Path("out", WEIGHTS).exists()
    assert vaecli(*command).code == 0


def test_a_device_that_does_not_answer(
    vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*arguments: object, **options: object) -> None:
        raise RuntimeError("CUDA error: all devices are busy\nmore words")

    monkeypatch.setattr("vaecli.system.device.torch.ones", ones)
    refused = vaecli(*SHORT, "--data-dir", data_dir, "-o", "out")
    assert refused.code == ExitCode.ENVIRONMENT
    assert "all devices are busy" in refused.err
    assert not Path("out").exists()


def test_killed_before_its_configuration_was_written(vaecli: Vaecli, data_dir: Path) -> None:
    Path("out/state").mkdir(parents=True)
    for name in ("out/state/lock", "out/state/holder", "out/.vaecli-tmp-7-config.json"):
        Path(name).touch()
    Path("out/state/.vaecli-tmp-7-holder").touch()
    command = [*SHORT, "--data-dir", data_dir, "-o", "out", "-q"]
    assert vaecli(*command).code == 0
    assert not list(Path("out").rglob(".vaecli-tmp-*"))
    # and with --force over an older run: its configuration is there to the last
    assert vaecli(*command, "--force").code == 0
    open_run(Path("out")).clear()
    assert directory.is_run(Path("out"))
    assert vaecli(*command, "--force").code == 0
