"""Streams that end, places that are missing, names nobody expects: vaecli works or says so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from command import peak_memory, process
from conftest import TRAIN, Vaecli
from test_corpus import CORPUS, ROWS
from vaecli.data.reading import Reading
from vaecli.errors import ExitCode
from vaecli.model.vae import VAE

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from Linux's /proc")


# ------------------------------------------------------------------------ streams


NO_READER = "exec 3> >(exit); sleep 0.5;"
"""Makes a pipe at 3 that nobody reads any more."""


def test_a_reader_that_goes_away_is_141_and_silent(trained: Path, tmp_path: Path) -> None:
    shell = f"{NO_READER} {{}} >&3 2>err"
    done = process("sample", "-m", trained, "-n", 1, "-o", "-", shell=shell, cwd=tmp_path)
    assert done.returncode == ExitCode.BROKEN_PIPE
    assert (tmp_path / "err").read_text() == ""


def test_no_stream_at_all(trained: Path, tmp_path: Path) -> None:
    """The picture is written, and the exit code tells that its name was not."""
    shell = "{} <&- >&- 2>&-"
    done = process("sample", "-m", trained, "-n", 1, "-o", "x.png", shell=shell, cwd=tmp_path)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1"])
@pytest.mark.parametrize(
    ("arguments", "shell", "code"),
    [
        (["--help"], "{} >/dev/full", ExitCode.ENVIRONMENT),
        (["--version"], "{} >&-", ExitCode.ENVIRONMENT),
        (["--help"], f"{NO_READER} {{}} >&3", ExitCode.BROKEN_PIPE),
        (["train", "--help"], "{} 2>/dev/full", ExitCode.OK),
        (["train", "--config", "absent.toml"], "{} 2>/dev/full", ExitCode.USAGE),
        (["train", "--config", "absent.toml"], "{} 2>&-", ExitCode.USAGE),
        (["train", "--config", "absent.toml", "--json"], "{} >/dev/full", ExitCode.USAGE),
        (["train", "--config", "absent.toml", "--json"], "{} >&- 2>&-", ExitCode.USAGE),
    ],
)
def test_the_exit_code_survives_its_streams(
    arguments: list[str], shell: str, code: int, unbuffered: str, tmp_path: Path
) -> None:
    """In an environment that holds nothing but a home and a path."""
    bare = f"env -i HOME={tmp_path} PATH=$PATH {unbuffered} "
    done = process(*arguments, shell=shell.replace("{}", f"{bare}{{}}"), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "ignored" not in done.stderr


@linux
@pytest.mark.timeout(600)  # some forty processes
def test_a_result_that_cannot_be_written_is_exit_5(trained: Path, data_dir: Path) -> None:
    """Every command; full, closed, and without a reader; a stderr that fails besides; python -u."""
    data = ["--data-dir", str(data_dir), "--no-download"]
    few = [*data, "--limit", "20"]
    model, picture = ["-m", str(trained), "-q"], str(CORPUS / "images/good.png")
    commands: list[tuple[list[str], int]] = [
        (["--version", "-v"], 0),
        (["train", "--resume", str(trained), *data, "-q"], 0),
        ([*TRAIN, *data, "--dry-run", "--json"], 0),
        (["eval", *model, *few], 0),
        (["eval", *model, *few, "--json"], 0),
        (["eval", *model, *few, "--per-image", "-"], 0),
        (["reconstruct", picture, *model, "-o", "-"], 0),
        (["reconstruct", picture, *model, "-o", "r.png", "-f", "--json"], 0),
        (["sample", *model, "-n", "1", "-o", "-"], 0),
        (["sample", *model, "-n", "1", "-o", "x.png", "-f"], 0),
        (["export", *model, "--format", "safetensors", "-o", "-"], 0),
        (["eval", "-m", "nowhere"], ExitCode.MODEL),
        (["eval", "-m", "nowhere", "--json"], ExitCode.MODEL),
    ]
    failures: list[tuple[str, str, bool, int]] = [
        ("/dev/full", "", True, ExitCode.ENVIRONMENT),
        ("closed", "", False, ExitCode.ENVIRONMENT),
        ("gone", "", True, ExitCode.BROKEN_PIPE),
        ("/dev/full", "/dev/full", False, ExitCode.ENVIRONMENT),
        ("/dev/null", "/dev/full", True, 0),
        ("/dev/null", "closed", False, 0),
        ("/dev/null", "gone", False, 0),
    ]
    rows, wanted = [], []
    for number, (arguments, code) in enumerate(commands):
        # each command meets both of the first two, and one of the others in turn
        for out, err, buffered, then in [*failures[:2], failures[2 + number % 5]]:
            rows.append((arguments, out, err, buffered is (number % 2 == 0)))
            wanted.append(code or then)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("stream_worker.py")],
        input=json.dumps(rows), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for row, (code, said), then in zip(rows, json.loads(done.stdout), wanted, strict=True):
        assert code == then, (row, said)
        said = "".join(line for line in said.splitlines(True) if line.startswith("vaecli: error"))
        if row[1] in ("/dev/full", "closed") and not row[2] and then == ExitCode.ENVIRONMENT:
            assert said.startswith("vaecli: error: stdout: "), (row, said)
            assert ("it is closed. Redirect it to a file." in said) == (row[1] == "closed"), said
        assert said.count("\n") == (then not in (0, ExitCode.BROKEN_PIPE) and not row[2]), row
        assert "ignored" not in said, (row, said)
    assert done.stderr == ""


# ---------------------------------------------------------------- the environment


def test_bare_surroundings(data_dir: Path, tmp_path: Path) -> None:
    """No HOME, locale C, umask 077, python -O, and a name of newline, escape and broken UTF-8."""
    output = tmp_path / "a\n\x1b[31m\udcff"
    bare = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "MPLCONFIGDIR", "TMPDIR")
        if name in os.environ
    }
    done = process(
        *TRAIN, "--epochs", 1, "--no-download", "--data-dir", data_dir, "-o", output,
        python=["-O"],
        shell="umask 077; {}",
        env={**bare, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\n\\x1b[31m\\udcff" in done.stderr
    assert "\x1b" not in done.stderr
    assert {path.stat().st_mode & 0o777 for path in output.iterdir() if path.is_file()} == {0o600}
    assert output.stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_written(vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", os.devnull)
    np.save("images.npy", np.full((20, 5, 5), 200, np.uint8))
    command = ("train", "--data", "images.npy", "--dry-run", "--latent-dim", "2")
    refused = vaecli(*command)
    assert refused.code == ExitCode.ENVIRONMENT
    assert "--data-dir" in refused.err
    assert vaecli(*command, "--data-dir", "here").code == 0


def test_the_checks_do_not_lean_on_assert(tmp_path: Path) -> None:
    """Under `python -O` every fourth file of the corpus gets the same answer."""
    kinds: dict[str, list[object]] = {
        "weights": ["-m"],
        "latents": ["-m", CORPUS / "weights/good", "--latents"],
    }
    rows = [name for name in ROWS if name.split("/")[0] in kinds][::4]
    commands = [
        ["sample", *map(str, kinds[name.split("/")[0]]), str(CORPUS / name), "-fq", "-o", "x.npy"]
        for name in rows
    ]
    script = (
        "import json, sys; from vaecli.cli import app as cli\n"
        "print(__debug__, json.dumps([cli.run(words) for words in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", script],
        input=json.dumps(commands), capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    debug, codes = done.stdout.splitlines()[-1].split(" ", 1)
    assert debug == "False"
    assert json.loads(codes) == [int(ROWS[name]["exit"]) for name in rows]


@pytest.mark.parametrize("failure", ["host", "torch", "gpu", "metal", "library"])
def test_out_of_memory_names_a_batch_size(
    failure: str, vaecli: Vaecli, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    error = {
        "host": MemoryError(),
        "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        "metal": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        "library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublas"),
    }[failure]

    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(VAE, "decode_draws", full)
    outcome = vaecli(*TRAIN, "--data-dir", data_dir, "--no-download", "-o", "out", "-q")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "out of memory" in outcome.err
    assert "--batch-size 32" in outcome.err
    assert ("--device cpu" in outcome.err) == (failure not in ("host", "torch"))
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--importance-samples", "5000", "--limit", "1"), "--importance-samples 2500"),
        (("--importance-samples", "50"), "a narrower --hidden"),  # a batch is computed in parts
        (("--batch-size", "1"), "a narrower --hidden"),
    ],
)
def test_out_of_memory_blames_what_fills_it(
    options: tuple[str, ...],
    hint: str,
    vaecli: Vaecli,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(VAE, "decode_draws", full)
    data = ("--data-dir", data_dir, "--no-download")
    outcome = vaecli(*TRAIN, *data, "-o", "out", "-q", *options)
    assert outcome.code == ExitCode.ENVIRONMENT
    assert hint in outcome.err


def test_out_of_memory_blames_no_batch_of_samples(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vaecli.evaluation.generation.decode", full)
    outcome = vaecli("sample", "-m", trained, "-o", "s.png")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "--num-samples" in outcome.err
    assert "--batch-size" not in outcome.err


# ------------------------------------------------------------- names and odd files


@pytest.mark.parametrize(
    "name", ["x" * 5000, "x" * 300 + ".png", "/x" * 2000, "a\n\x1b]0;owned\x07"]
)
def test_names_of_any_kind_are_answered(name: str, vaecli: Vaecli, trained: Path) -> None:
    for command, codes in (
        (["sample", "-m", name], (2, 4, 5)),
        (["reconstruct", name, "-m", trained], (2, 3, 5)),
        (["train", "--data", name, "--dry-run"], (2, 3, 5)),
        (["sample", "-m", trained, "--latents", name], (3, 5)),
        (["train", "--config", name], (2,)),
    ):
        outcome = vaecli(*command)
        assert outcome.code in codes, (command[0], outcome.err[:300])
        assert outcome.err.count("\n") == 1
        assert "\x1b" not in outcome.err


@linux
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_printed_path_opens_again(trained: Path, tmp_path: Path, encoding: str) -> None:
    """Whatever its bytes, such as those of a Japanese Windows of old, and whatever the locale."""
    names = ["写真".encode("shift_jis"), "写真".encode(), b"plain"]
    (tmp_path / "s").mkdir()
    for name in names:
        picture = os.fsencode(tmp_path / "s") + b"/" + name + b".png"
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(os.fsdecode(picture))
    command = [sys.executable, "-m", "vaecli", "reconstruct", "s", "-m", str(trained), "-o", "q"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=True)
    printed = done.stdout.splitlines()
    assert sorted(printed) == sorted(b"q/" + name + b".recon.png" for name in names)
    assert all((tmp_path / os.fsdecode(path)).is_file() for path in printed)


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    """A file of `size` bytes that takes no room."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


@linux
def test_odd_files_are_answered_at_once(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    """FIFOs, folders, devices, dangling links, loops, and files of a gigabyte that hold nothing."""
    for suffix in ("png", "safetensors", "npy", "toml"):
        os.mkfifo(f"fifo.{suffix}")
    Path("folder.png").mkdir()
    Path("gone.png").symlink_to("nowhere")
    Path("loop.png").symlink_to("loop.png")
    Path("zero.png").symlink_to("/dev/zero")
    sound = (trained / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", sound[:8])
    sparse(Path("model.safetensors"), 2**30)
    sparse(Path("longer.safetensors"), 2**30, sound)
    sparse(Path("header.safetensors"), 2**30, struct.pack("<Q", 2**30 - 8))
    sparse(Path("zeros.safetensors"), len(sound), sound[: 8 + length])
    sparse(Path("huge.png"), 2**30, (CORPUS / "images/good.png").read_bytes())
    sparse(Path("huge.npy"), 2**30, (CORPUS / "arrays/good.npy").read_bytes())
    sparse(Path("huge.toml"), 2**30)
    shutil.copytree(trained, "run")
    (manifest,) = Path("run/state").glob("manifest.json")
    content = json.loads(manifest.read_text()) | {"finished": False}
    for entry in content["generations"]:
        sparse(Path("run/state", entry["file"]), 2**30)
        entry["size"] = 2**30
    manifest.write_text(json.dumps(content))
    images = ["fifo.png", "folder.png", "gone.png", "loop.png", "zero.png", "huge.png"]
    models = ["fifo", "model", "longer", "header", "zeros"]
    answers: list[tuple[list[object], int, str]] = [
        (["train", "--data", "fifo.npy", "--dry-run"], 3, "not a regular file"),
        (["train", "--data", "huge.npy", "--dry-run"], 3, "damaged"),
        (["sample", "-m", trained, "--latents", "fifo.npy"], 3, "not a regular file"),
        (["train", "--config", "fifo.toml"], 2, "not a regular file"),
        (["train", "--config", "huge.toml"], 2, "limit"),
        (["train", "--resume", "run", "--data-dir", data_dir], 4, "run"),
    ]
    vaecli("sample", "-m", trained, "-n", 1)  # what is imported belongs to no file
    vaecli("train", "--resume", trained, "--data-dir", data_dir)
    answers += [(["reconstruct", name, "-m", trained], 3, name) for name in images]
    answers += [(["sample", "-m", f"{name}.safetensors"], 4, name) for name in models]
    for words, code, said in answers:
        memory = peak_memory()
        start = time.perf_counter()
        outcome = vaecli(*words)
        if (seconds := time.perf_counter() - start) >= 2:  # the machine may have been busy
            start = time.perf_counter()
            vaecli(*words)
            seconds = time.perf_counter() - start
        assert outcome.code == code, (words, outcome.err)
        assert said in outcome.err
        assert seconds < 2, words
        assert memory() < 64 * 2**20, words


def test_a_configuration_of_10_to_the_9_units(vaecli: Vaecli) -> None:
    Path("vaecli.toml").write_text("hidden = 1000000000\n")
    outcome = vaecli("train")
    assert outcome.code == ExitCode.USAGE
    assert "--hidden must be at most 65,536, not 1,000,000,000" in outcome.err
    assert not Path("runs").exists()


def test_a_run_cannot_name_a_place_on_this_machine(vaecli: Vaecli, trained: Path) -> None:
    """A stranger's config.json says what its images are called, never where they lie."""
    shutil.copytree(trained, "run")
    Path("secret").mkdir()
    Image.new("L", (28, 28)).save("secret/x.png")
    content = json.loads(Path("run/config.json").read_text())
    content["data"]["name"] = str(Path("secret").resolve())
    Path("run/config.json").write_text(json.dumps(content))
    outcome = vaecli("eval", "-m", "run")
    assert outcome.code == ExitCode.MODEL
    assert "no data set is called" in outcome.err


# -------------------------------------------------------------------------- locks


@pytest.mark.parametrize("old", [False, True])
def test_a_file_system_without_locks(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch, data_dir: Path, old: bool
) -> None:
    """One sentence, of a run and of the data folder, where nothing is asked of the network.

    filelock used to raise NotImplementedError; now it goes over to a lock that stays behind.
    """
    if old:
        monkeypatch.setattr(filelock.FileLock, "acquire", _not_implemented)
    else:
        fcntl = pytest.importorskip("fcntl", reason="Windows always has locks")
        monkeypatch.setattr(fcntl, "flock", _no_such_call)
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/a.png")
    for words, place in (
        (["--data", "mnist", "--data-dir", data_dir, "-o", "run"], Path("run/state/lock")),
        (["--data", "mnist", "-o", "other"], Reading().folder / "vaecli/mnist/lock"),
        (["--data", "photos", "-o", "other"], Reading().folder),
    ):
        outcome = vaecli("train", *words, "-q")
        assert outcome.code == ExitCode.ENVIRONMENT, outcome.err
        assert outcome.err.startswith(f"vaecli: error: {place}")
        assert (
            "lock: the file system does not support locks. Choose a folder on another"
            in outcome.err
        )
    assert not list(Path().rglob("*.safetensors"))


def _not_implemented(*_: object, **__: object) -> None:
    raise NotImplementedError


def _no_such_call(*_: object) -> None:
    raise OSError(errno.ENOSYS, "not there")
