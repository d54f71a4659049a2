"""MNIST and its relatives: found without network, downloaded whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import hashlib
import json
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Vaecli
from vaecli.data.dataset import Dataset
from vaecli.data.named import cache, downloads, http_download, idx, sets
from vaecli.data.named.class_names import class_names
from vaecli.data.named.mirrors import DOWNLOADS, Downloads
from vaecli.data.reading import Reading
from vaecli.errors import DataError, EnvironmentFailure
from vaecli.system import files, locks

REAL = Path(
    os.environ.get("VAECLI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"), "MNIST/raw"
)


def encode(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + bytes(array.flatten())


def small_set() -> dict[str, NDArray[np.uint8]]:
    generator = np.random.default_rng(0)

    def draw(limit: int, *shape: int) -> NDArray[np.uint8]:
        return generator.integers(0, limit, shape, np.uint8)

    arrays = (draw(256, 20, 28, 28), draw(10, 20), draw(256, 8, 28, 28), draw(10, 8))
    return dict(zip(idx.FILES, arrays, strict=True))


ARRAYS = small_set()
PLAIN = {file: encode(array) for file, array in ARRAYS.items()}
PACKED = {file: gzip.compress(data, mtime=0) for file, data in PLAIN.items()}
EXPECTED = idx.assemble("mnist", ARRAYS, "memory")
BOMB = gzip.compress(PLAIN[idx.FILES[0]] + bytes(16 * 1024**2), mtime=0)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


MD5 = {file: md5(data) for file, data in PACKED.items()}


def fill(folder: Path, contents: dict[str, bytes], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in contents.items():
        (folder / f"{file}{suffix}").write_bytes(data)
    return folder


def same(found: Dataset | None) -> bool:
    return found is not None and found.fingerprint() == EXPECTED.fingerprint()


def everything_in(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.endswith(("/lock", "/holder"))}


# ---------------------------------------------------------------- found on disk


@pytest.mark.parametrize(
    ("contents", "suffix"), [(PLAIN, ""), (PACKED, ".gz"), (PACKED, "")], ids=["plain", "gz", "odd"]
)
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
def test_torchvisions_layout_is_found(
    tmp_path: Path, name: str, folder: str, contents: dict[str, bytes], suffix: str
) -> None:
    raw = fill(tmp_path / folder / "raw", contents, suffix)
    before = everything_in(tmp_path)
    for data_dir in (tmp_path, tmp_path / folder, raw):
        found = sets.find(name, data_dir, report=pytest.fail)
        assert same(found)
        assert found is not None
        assert found.name == name
    assert everything_in(tmp_path) == before


def test_absent_is_none_without_a_word(tmp_path: Path) -> None:
    assert sets.find("mnist", tmp_path / "no such folder", report=pytest.fail) is None
    assert everything_in(tmp_path) == set()


def test_files_of_another_set_are_not_taken(tmp_path: Path) -> None:
    raw = fill(tmp_path / "FashionMNIST" / "raw", PLAIN)
    for data_dir in (tmp_path, tmp_path / "FashionMNIST", raw):
        assert sets.find("mnist", data_dir) is None


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
@pytest.mark.parametrize("folder", ["mnist_data", "here"])
def test_files_lying_in_the_folder_itself_are_those_of_the_set_named(
    tmp_path: Path, name: str, folder: str
) -> None:
    fill(tmp_path / folder, PACKED, ".gz")
    notes: list[str] = []
    found = sets.find(name, tmp_path / folder, report=notes.append)
    assert same(found)
    assert found is not None
    assert found.name == name
    assert [f"taken to be those of {name}" in note for note in notes] == [True]


@pytest.mark.parametrize(
    "folder", ["MNIST", "mnist", "fashion-mnist", "data/fashion", "KMNIST/raw"]
)
def test_a_folder_that_is_called_as_a_set_holds_that_set(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / folder, PLAIN)
    names = {"M": "mnist", "m": "mnist", "f": "fashion-mnist", "d": "fashion-mnist", "K": "kmnist"}
    for name in ("mnist", "fashion-mnist", "kmnist"):
        found = sets.find(name, tmp_path / folder, report=pytest.fail)
        assert (found is not None) == (name == names[folder[0]])


def test_kaggles_dotted_names_are_found(tmp_path: Path) -> None:
    dotted = {name.replace("-idx", ".idx"): data for name, data in PLAIN.items()}
    fill(tmp_path / "MNIST/raw", dotted)
    assert same(sets.find("mnist", tmp_path, report=pytest.fail))


def test_files_nobody_named_are_mnist_only_if_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, PLAIN)
    notes: list[str] = []
    assert sets.find("mnist", tmp_path, guess=True, report=notes.append) is None
    assert ["say with --data which set they are" in note for note in notes] == [True]
    labels = PLAIN[idx.FILES[3]][8:]
    monkeypatch.setattr(sets, "_MNIST_TEST_LABELS", hashlib.sha256(labels).hexdigest())
    assert same(sets.find("mnist", tmp_path, guess=True, report=pytest.fail))
    notes.clear()
    assert sets.find("kmnist", tmp_path, report=notes.append) is None
    assert ["they are those of mnist, not of kmnist" in note for note in notes] == [True]


@pytest.mark.parametrize("file", idx.FILES)
def test_a_damaged_file_gives_way_to_its_sound_sibling(tmp_path: Path, file: str) -> None:
    raw = fill(tmp_path / "MNIST" / "raw", PLAIN)
    fill(raw, PACKED, ".gz")
    (raw / file).write_bytes(PLAIN[file][:-5])
    problems: list[str] = []
    assert same(sets.find("mnist", tmp_path, report=problems.append))
    assert [str(raw / file) in problem for problem in problems] == [True]


def test_a_damaged_file_without_sibling_makes_the_set_absent(tmp_path: Path) -> None:
    raw = fill(tmp_path / "MNIST" / "raw", PLAIN)
    damaged = raw / idx.FILES[2]
    damaged.write_bytes(PLAIN[idx.FILES[2]][:-5])
    problems: list[str] = []
    assert sets.find("mnist", tmp_path, report=problems.append) is None
    assert len(problems) == 1
    with pytest.raises(EnvironmentFailure) as caught:
        downloads.load("mnist", Reading(tmp_path, download=False))
    assert str(damaged) in caught.value.message
    assert str(raw) in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    raw = fill(tmp_path / "MNIST" / "raw", PLAIN)
    (raw / idx.FILES[1]).unlink()
    with pytest.raises(EnvironmentFailure, match=f"{idx.FILES[1]}: it is missing"):
        downloads.load("mnist", Reading(tmp_path, download=False))


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, limit: int) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(files, "read_capped", refuse)
    problems: list[str] = []
    assert sets.find("mnist", tmp_path, report=problems.append) is None
    assert problems
    assert all(problem.endswith(": Permission denied") for problem in problems)


def test_nothing_there_and_no_download_gives_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="downloads are off") as caught:
        downloads.load("kmnist", Reading(tmp_path, download=False))
    assert all(file in caught.value.hint for file in idx.FILES)
    assert str(tmp_path / "KMNIST" / "raw") in caught.value.hint
    assert "--data digits" in caught.value.hint


# ------------------------------------------------------------------------ cache


def test_cache_round_trip(tmp_path: Path) -> None:
    path = cache.cache_path("mnist", tmp_path)
    cache.write_cache(path, EXPECTED)
    assert same(cache.read_cache(path, "mnist"))
    assert same(sets.find("mnist", tmp_path, report=pytest.fail))
    with pytest.raises(DataError, match="not a cache of kmnist"):
        cache.read_cache(path, "kmnist")


def test_a_damaged_cache_is_refused_or_harmless(tmp_path: Path) -> None:
    path = cache.cache_path("mnist", tmp_path)
    cache.write_cache(path, EXPECTED)
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    messages = []
    for position in [*range(header), *range(header, len(good), 997)]:
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        try:
            assert same(cache.read_cache(path, "mnist"))
        except DataError as error:
            messages.append(error.message)
    assert len(messages) > header // 2
    assert all(str(path) in message for message in messages)
    for length in [*range(header + 1), len(good) // 2, len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(DataError):
            cache.read_cache(path, "mnist")


@pytest.mark.parametrize(
    "header",
    [b"[" * 60_000, b"{}", b"[]", b'{"__metadata__": []}', b"\xff\xfe", b"1e999", b"9" * 5000],
)
def test_a_hostile_cache_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "cache"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError):
        cache.read_cache(path, "mnist")


def test_a_damaged_cache_is_made_anew_from_idx_files(tmp_path: Path) -> None:
    fill(tmp_path / "MNIST" / "raw", PACKED, ".gz")
    path = cache.cache_path("mnist", tmp_path)
    cache.write_cache(path, EXPECTED)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    problems: list[str] = []
    assert same(sets.find("mnist", tmp_path, report=problems.append))
    assert [str(path) in problem for problem in problems] == [True]
    assert same(cache.read_cache(path, "mnist"))


def test_a_damaged_cache_alone_is_named(tmp_path: Path) -> None:
    path = cache.cache_path("mnist", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk")
    with pytest.raises(EnvironmentFailure) as caught:
        downloads.load("mnist", Reading(tmp_path, download=False))
    assert str(path) in caught.value.message


# --------------------------------------------------------------------- download


class Server(ThreadingHTTPServer):
    """Serves good and bad mirrors: the first part of the path says what goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()
        self.packed = dict(PACKED)

    def mirror(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"

    def sources(self, *behaviours: str, timeout: float = 5.0) -> Downloads:
        return Downloads([self.mirror(name) for name in behaviours], MD5, timeout)

    def handle_error(self, request: object, client_address: object) -> None:
        """The client may hang up."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        _, behaviour, file = self.path.split("/")
        self.server.asked.append(f"{behaviour}/{file}")
        data = self.server.packed[file.removesuffix(".gz")]
        getattr(self, f"send_{behaviour}")(data)

    def log_message(self, *_: object) -> None:
        pass

    def send(
        self, body: bytes, *, status: int = 200, length: int | None = None, **more: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in more.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def slowly(self, data: bytes) -> None:
        for position in range(len(data)):
            self.wfile.write(data[position : position + 1])
            if self.server.over.wait(0.04):
                return

    def send_good(self, data: bytes) -> None:
        self.send(data)

    def send_moved(self, data: bytes) -> None:
        self.send(b"", status=302, Location=self.path.replace("moved", "good"))

    def send_html(self, data: bytes) -> None:
        self.send(b"<html>Sign in</html>", Content_Type="text/html; charset=utf-8")

    def send_unnamed_html(self, data: bytes) -> None:
        self.send(b"<html>Sign in</html>")

    def send_wrong(self, data: bytes) -> None:
        self.send(data[:-1] + b"?")

    def send_short(self, data: bytes) -> None:
        self.send(data[:-10], length=len(data))

    def send_unknown_length_short(self, data: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data[:-10])

    def send_e503(self, data: bytes) -> None:
        self.send(b"try later", status=503)

    def send_e404(self, data: bytes) -> None:
        self.send(b"", status=404)

    def send_loop(self, data: bytes) -> None:
        self.send(b"", status=302, Location=self.path)

    def send_local(self, data: bytes) -> None:
        self.send(b"", status=302, Location="file:///etc/hostname")

    def send_huge(self, data: bytes) -> None:
        self.send(data, length=http_download.SIZE_LIMIT + 1)

    def send_endless(self, data: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.over.is_set():
            self.wfile.write(bytes(1024**2))

    def send_bomb(self, data: bytes) -> None:
        self.send(BOMB)

    def send_stall(self, data: bytes) -> None:
        self.server.over.wait(20)

    def send_stall_halfway(self, data: bytes) -> None:
        self.send(data[:1000], length=len(data))
        self.server.over.wait(20)

    def send_dripping_header(self, data: bytes) -> None:
        self.slowly(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000)

    def send_dripping_body(self, data: bytes) -> None:
        self.send(b"", length=len(data))
        self.slowly(data)

    def send_nonsense(self, data: bytes) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")

    def send_hang_up(self, data: bytes) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


DOWNLOADED = {f"MNIST/raw/{file}.gz" for file in idx.FILES} | {"vaecli/mnist/images.safetensors"}
FAST_FAULTS = {
    "html": "web page",
    "unnamed_html": "MD5",
    "wrong": "MD5",
    "short": "it stopped after",
    "unknown_length_short": "MD5",
    "e503": "HTTP 503",
    "e404": "HTTP 404",
    "loop": "redirects without a target",
    "local": "redirects without a target",
    "huge": "it sends more than",
    "bomb": "MD5",
    "nonsense": "SSH-2.0",
    "hang_up": "",
}
SLOW_FAULTS = {
    "stall": "",
    "stall_halfway": "",
    "dripping_header": "no answer",
    "dripping_body": "stalls",
}
FAULTS = FAST_FAULTS | SLOW_FAULTS


def test_download(tmp_path: Path, server: Server) -> None:
    seen: list[tuple[str, int, int | None]] = []
    reading = Reading(
        tmp_path,
        progress=lambda file, done, total: seen.append((file, done, total)),
        report=pytest.fail,
    )
    found = downloads.download("mnist", reading, server.sources("good"))
    assert same(found)
    assert everything_in(tmp_path) == DOWNLOADED
    for file in idx.FILES:
        size = len(PACKED[file])
        assert (f"{file}.gz", size, size) in seen
        assert (tmp_path / f"MNIST/raw/{file}.gz").read_bytes() == PACKED[file]
    asked = len(server.asked)
    assert same(sets.find("mnist", tmp_path, report=pytest.fail))
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("good")))
    assert same(downloads.load("mnist", Reading(tmp_path)))
    assert len(server.asked) == asked == 4


def test_an_honest_redirect_is_followed(tmp_path: Path, server: Server) -> None:
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("moved")))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_mirror_is_tried_on_any_failure(
    tmp_path: Path, server: Server, fault: str
) -> None:
    sources = server.sources(fault, "good", timeout=0.3 if fault in SLOW_FAULTS else 5.0)
    start = time.monotonic()
    assert same(downloads.download("mnist", Reading(tmp_path), sources))
    assert time.monotonic() - start < 10
    assert everything_in(tmp_path) == DOWNLOADED
    # in their order, and the failed one is not asked for the other files
    asked = list(dict.fromkeys(server.asked))
    first, *others = (f"{file}.gz" for file in idx.FILES)
    assert asked == [f"{fault}/{first}", f"good/{first}", *(f"good/{file}" for file in others)]


@pytest.mark.parametrize("fault", FAULTS)
def test_when_all_mirrors_fail_each_is_named_and_nothing_is_kept(
    tmp_path: Path, server: Server, fault: str
) -> None:
    sources = server.sources(fault, timeout=0.1 if fault in SLOW_FAULTS else 5.0)
    refused = closed_port()
    sources = dataclasses.replace(sources, mirrors=[*sources.mirrors, refused])
    with pytest.raises(EnvironmentFailure) as caught:
        downloads.download("mnist", Reading(tmp_path), sources)
    assert f"127.0.0.1:{server.server_port}: " in caught.value.message
    assert FAULTS[fault] in caught.value.message
    assert f"{refused.split('/')[2]}: Connection refused" in caught.value.message
    assert len(caught.value.message) < 400
    assert str(tmp_path / "MNIST" / "raw") in caught.value.hint
    assert "--data digits" in caught.value.hint
    assert everything_in(tmp_path) == set()
    assert sets.find("mnist", tmp_path, report=pytest.fail) is None


def test_an_endless_body_is_cut_off(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "SIZE_LIMIT", 4 * 1024**2)
    with pytest.raises(EnvironmentFailure, match="sends more than"):
        downloads.download("mnist", Reading(tmp_path), server.sources("endless"))
    assert everything_in(tmp_path) == set()


def test_a_gzip_bomb_with_the_right_md5_is_refused(tmp_path: Path, server: Server) -> None:
    sources = dataclasses.replace(server.sources("bomb"), md5={**MD5, idx.FILES[0]: md5(BOMB)})
    with pytest.raises(EnvironmentFailure, match="more follow"):
        downloads.download("mnist", Reading(tmp_path), sources)
    assert everything_in(tmp_path) == set()


def test_https_is_never_downgraded() -> None:
    request = urllib.request.Request("https://example.org/file")
    headers = HTTPMessage()

    def redirect(target: str) -> urllib.request.Request | None:
        handler = http_download.Redirects()
        return handler.redirect_request(request, BytesIO(), 302, "Found", headers, target)

    assert isinstance(headers, Message)
    followed = redirect("https://example.com/file")
    assert followed is not None
    assert followed.full_url == "https://example.com/file"
    with pytest.raises(ValueError, match="from https to http"):
        redirect("http://example.com/file")


def test_no_request_goes_to_http_when_https_fails(tmp_path: Path, server: Server) -> None:
    secure = server.mirror("good").replace("http:", "https:")
    sources = Downloads([secure], MD5, timeout=0.5)
    with pytest.raises(EnvironmentFailure):
        downloads.download("mnist", Reading(tmp_path), sources)
    assert server.asked == []


@pytest.mark.parametrize("survivors", [0, 1, 2, 3])
def test_an_interrupted_download_goes_on_with_what_is_sound(
    tmp_path: Path, server: Server, survivors: int
) -> None:
    stop_at = f"{idx.FILES[survivors]}.gz"

    def interrupt(file: str, done: int, total: int | None) -> None:
        if file == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        downloads.download("mnist", Reading(tmp_path, progress=interrupt), server.sources("good"))
    kept = {f"MNIST/raw/{file}.gz" for file in idx.FILES[:survivors]}
    assert everything_in(tmp_path) == kept
    assert sets.find("mnist", tmp_path) is None
    server.asked.clear()
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("good")))
    assert server.asked == [f"good/{file}.gz" for file in idx.FILES[survivors:]]


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_full_disk_is_an_environment_failure(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real_write, calls = os.write, [0]

    def write(descriptor: int, data: bytes) -> int:
        packed = bytes(data[:2]) == b"\x1f\x8b"  # not the name of the lock's holder
        calls[0] += packed
        if packed and calls[0] == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(files.system, "write", write)
        with pytest.raises(EnvironmentFailure, match="No space left"):
            downloads.download("mnist", Reading(tmp_path), server.sources("good"))
    kept = {f"MNIST/raw/{file}.gz" for file in idx.FILES[: failing - 1]}
    assert everything_in(tmp_path) <= kept | {"vaecli/mnist/images.safetensors"}
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("good")))


def test_a_cache_that_cannot_be_written_is_only_reported(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, dataset: Dataset) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "write_cache", refuse)
    told: list[str] = []
    sources = server.sources("good")
    assert same(downloads.download("mnist", Reading(tmp_path, report=told.append), sources))
    assert ["No space left" in text for text in told] == [True]


def test_a_data_folder_that_is_a_file_is_an_environment_failure(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(EnvironmentFailure, match="data"):
        downloads.download("mnist", Reading(tmp_path / "data"), Downloads([], MD5))


def test_what_a_killed_download_left_is_removed(tmp_path: Path, server: Server) -> None:
    for folder in ("MNIST/raw", "vaecli/mnist"):
        fill(tmp_path / folder, {f"{files.TEMPORARY_PREFIX}123-x": b"half"})
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("good")))
    assert everything_in(tmp_path) == DOWNLOADED


def test_damage_is_repaired_by_a_download(tmp_path: Path, server: Server) -> None:
    raw = fill(tmp_path / "MNIST" / "raw", PACKED, ".gz")
    (raw / f"{idx.FILES[3]}.gz").write_bytes(PACKED[idx.FILES[3]][:-4])
    told: list[str] = []
    sources = server.sources("good")
    found = downloads.load("mnist", Reading(tmp_path, report=told.append), sources)
    assert same(found)
    assert len(told) == 1
    assert server.asked == [f"good/{idx.FILES[3]}.gz"]


def test_two_downloads_at_once_fetch_once(tmp_path: Path, server: Server) -> None:
    told: list[str] = []

    def go(_: int) -> Dataset:
        def linger(file: str, done: int, total: int | None) -> None:
            time.sleep(0.05)

        return downloads.download(
            "mnist", Reading(tmp_path, progress=linger, report=told.append), server.sources("good")
        )

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(go, range(3)))
    assert all(same(result) for result in results)
    assert len(server.asked) == 4
    assert [text.endswith("waiting for it") for text in told] == [True, True]


def test_a_lock_that_never_ends_is_an_environment_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LOCK_WAIT", 0.0)
    path = cache.cache_path("mnist", tmp_path).with_name("lock")
    path.parent.mkdir(parents=True)
    with (
        locks.hold(path, what="the test"),
        pytest.raises(EnvironmentFailure, match="in use by process"),
    ):
        downloads.download("mnist", Reading(tmp_path), Downloads([], MD5))


# ------------------------------------------------------------------------ probe


@pytest.mark.parametrize("behaviour", ["good", "moved", "stall_halfway"])
def test_a_server_with_data_is_reachable(server: Server, behaviour: str) -> None:
    assert downloads.reachable("mnist", mirror=server.mirror(behaviour))


@pytest.mark.parametrize(
    "behaviour", ["html", "unnamed_html", "e503", "loop", "stall", "dripping_header", "nonsense"]
)
def test_a_server_without_data_is_not_reachable(server: Server, behaviour: str) -> None:
    start = time.monotonic()
    assert not downloads.reachable("mnist", 0.3, mirror=server.mirror(behaviour))
    assert time.monotonic() - start < 3


def test_no_server_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert not downloads.reachable("mnist", mirror=closed_port())
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not downloads.reachable("mnist", mirror="http://no-such-host.invalid/")


def test_a_name_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> Sequence[object]:
        over.wait(20)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert not downloads.reachable("mnist", 0.2, mirror="http://mirror.invalid/")
    assert time.monotonic() - start < 3
    over.set()


# ------------------------------------------------------------------ torchvision


def test_a_torchvision_that_cannot_be_imported_does_not_matter(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it is an ImportError
    assert same(downloads.download("mnist", Reading(tmp_path), server.sources("good")))


def test_mirrors_and_md5_are_those_torchvision_gives() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for name, known in (
        ("mnist", datasets.MNIST),
        ("fashion-mnist", datasets.FashionMNIST),
        ("kmnist", datasets.KMNIST),
    ):
        assert set(DOWNLOADS[name].mirrors) == set(known.mirrors)
        found = {f"{file}.gz": md5 for file, md5 in DOWNLOADS[name].md5.items()}
        assert found == dict(known.resources)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real MNIST: set VAECLI_TEST_DATA")
def test_real_mnist_passes_its_md5(tmp_path: Path, server: Server) -> None:
    server.packed = {file: (REAL / f"{file}.gz").read_bytes() for file in idx.FILES}
    mirrors = [server.mirror("e503"), server.mirror("good")]
    sources = dataclasses.replace(DOWNLOADS["mnist"], mirrors=mirrors)
    found = downloads.download("mnist", Reading(tmp_path, report=pytest.fail), sources)
    original = idx.read_folder("mnist", REAL, pytest.fail)
    assert original is not None
    assert found.fingerprint() == original.fingerprint()
    again = sets.find("mnist", tmp_path, report=pytest.fail)
    assert again is not None
    assert again.fingerprint() == original.fingerprint()


# ---------------------------------------------------------------- what a table says


def test_class_names_are_those_torchvision_gives() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    for name, known in (("fashion-mnist", datasets.FashionMNIST), ("kmnist", datasets.KMNIST)):
        assert [*class_names(name).values()] == known.classes
    assert class_names("cifar10")[3] == "cat"
    assert class_names("mnist") == class_names("digits") == {}


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_the_table_of_a_named_set(vaecli: Vaecli, name: str) -> None:
    arrays = {file: array.clip(3, 250) for file, array in ARRAYS.items()}
    images, labels, test_images, test_labels = idx.FILES
    arrays |= {labels: ARRAYS[labels], test_labels: ARRAYS[test_labels]}
    arrays[test_images][[2, 5]] = arrays[images][7]
    folder = fill(Path(name), {file: encode(array) for file, array in arrays.items()})
    command = ("train", "-d", name, "--data-dir", folder, "--no-download", "--dry-run")
    for _ in range(2):  # from the files, and again
        data = json.loads(vaecli(*command, "--json").out)["data"]
        assert data["values"] == [
            {"samples": "8-bit", "lowest": 3, "highest": 250, "black": 0, "white": 255}
        ]
        assert data["notes"] == ["2 of the 8 test images are training images too"]
    rows = vaecli(*command).out
    assert "8-bit values from 3 to 250, 255 is white" in rows
    assert ("T-shirt/top" in rows) == (name == "fashion-mnist")
    limited = vaecli(*command, "--limit", "7", "--json")  # without the picture that is there twice
    assert json.loads(limited.out)["data"]["notes"] == []


def test_a_run_of_a_named_set_knows_its_classes(vaecli: Vaecli) -> None:
    folder = fill(Path("fashion"), PLAIN)
    data = ("--data-dir", folder, "-q")
    small = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--no-download")
    assert vaecli("train", "-d", "fashion-mnist", *small, *data, "-o", "run").code == 0
    classes = json.loads(Path("run/config.json").read_text())["data"]["classes"]
    assert classes == [*class_names("fashion-mnist").values()]
    assert vaecli("eval", "-m", "run", *data, "--per-image", "own.csv").code == 0
    labels = ARRAYS[idx.FILES[3]].tolist()
    expected = [(str(label), classes[label]) for label in labels]
    assert label_and_class("own.csv") == expected
    # other data is matched by name, and by number, as published sets are labelled
    pixels, names = ARRAYS[idx.FILES[2]], np.array([classes[label] for label in labels])
    np.savez("names.npz", images=pixels, labels=names)
    np.savez("numbers.npz", images=pixels, labels=np.array(labels))
    for name in ("names", "numbers"):
        outcome = vaecli(
            "eval", "-m", "run", *data, "-d", f"{name}.npz", "--per-image", f"{name}.csv"
        )
        assert outcome.code == 0
        assert sorted(label_and_class(f"{name}.csv")) == sorted(expected)


def label_and_class(path: str) -> list[tuple[str, str]]:
    rows = csv.DictReader(Path(path).read_text().splitlines())
    return [(row["label"], row["class"]) for row in rows]
