"""What experiment trackers wrote, read back without vaecli: metrics by epoch, and the rest."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Read:
    """One run of a tracker.

    Attributes:
        metrics: the values of each metric by epoch, each as often as it was logged.
        settings: the configuration.
        pictures: the bytes or the size of each picture by its name.
        texts: what else it holds, as text.
    """

    metrics: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, bytes | tuple[int, int]] = field(default_factory=dict)
    texts: str = ""

    def add(self, name: str, epoch: int, value: float) -> None:
        self.metrics.setdefault(name, {}).setdefault(epoch, []).append(value)


def tensorboard(run: Path) -> Read:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    read = Read()
    tags = events.Tags()
    for name in tags["scalars"]:
        for event in events.Scalars(name):
            read.add(name, event.step, event.value)
    for name in tags["tensors"]:
        for event in events.Tensors(name):
            proto = event.tensor_proto
            if name.endswith("text_summary"):
                read.texts += proto.string_val[0].decode()
            else:
                read.add(name, event.step, proto.float_val[0])
    for name in tags["images"]:
        image = events.Images(name)[-1]
        read.pictures[name] = (image.width, image.height)
    lines = [line.split("|") for line in read.texts.splitlines() if line.count("|") == 3]
    read.settings = {cells[1].strip(): cells[2].strip() for cells in lines}
    return read


def mlflow(folder: Path, known: str) -> Read:
    with sqlite3.connect(folder / "mlflow.db") as base:
        tagged = "select run_uuid from tags where key = 'vaecli.id' and value = ?"
        ((run,),) = base.execute(tagged, (known,)).fetchall()
        of_run = "where run_uuid = ?", (run,)
        ((uri,),) = base.execute(f"select artifact_uri from runs {of_run[0]}", of_run[1])
        read = Read(
            settings=dict(base.execute(f"select key, value from params {of_run[0]}", of_run[1]))
        )
        for name, epoch, value in base.execute(
            f"select key, step, value from metrics {of_run[0]}", of_run[1]
        ):
            read.add(name, epoch, value)
        read.texts = str(dict(base.execute(f"select key, value from tags {of_run[0]}", of_run[1])))
    artifacts = Path(uri.removeprefix("file://"))
    assert run in str(artifacts)
    read.pictures = {path.stem: path.read_bytes() for path in artifacts.iterdir()}
    return read


def trackio(folder: Path, known: str) -> Read:
    read = Read()
    with sqlite3.connect(folder / "vaecli.db") as base:
        ((name,),) = base.execute(
            f"select distinct run_name from metrics where run_name like '%-{known}'"
        )
        ((settings,),) = base.execute("select config from configs where run_name = ?", (name,))
        read.settings = {name: str(value) for name, value in json.loads(settings).items()}
        for epoch, row in base.execute(
            "select step, metrics from metrics where run_name = ?", (name,)
        ):
            for name, value in json.loads(row).items():
                if isinstance(value, dict):
                    read.pictures[name] = (folder / "media" / value["file_path"]).read_bytes()
                elif isinstance(value, str):
                    read.texts += value
                else:
                    read.add(name, epoch, value)
    return read


def wandb(folder: Path, known: str) -> Read:
    """The last of the files of a run, which tells of all of it."""
    folder = max(
        (folder / "wandb").glob(f"offline-run-*-{known}"), key=lambda path: path.stat().st_mtime_ns
    )
    (file,) = folder.glob("*.wandb")
    read = Read()
    for record in _wandb_records(file):
        items = record.get("history", {})
        for item in items.get("item", []):
            value, (name, *inner) = json.loads(item["valueJson"]), item["nestedKey"]
            if inner == ["path"]:
                read.pictures[name] = (folder / "files" / value).read_bytes()
            elif not inner and not name.startswith("_"):
                read.add(name, int(items["step"]["num"]), value)
        for item in record.get("summary", {}).get("update", []):
            read.texts += f"{item['valueJson']} "
        for item in record.get("run", {}).get("config", {}).get("update", []):
            read.settings[item["key"]] = str(json.loads(item["valueJson"]))
    return read


_AS_JSON = """
import sys
from google.protobuf.json_format import MessageToJson
from wandb.proto.wandb_internal_pb2 import Record
for line in sys.stdin:
    record = Record()
    record.ParseFromString(bytes.fromhex(line))
    print(MessageToJson(record, indent=None))
"""


def _wandb_records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a .wandb file, which is a log of LevelDB: blocks of 32 KB."""
    data, at, parts = file.read_bytes(), 7, b""
    records = []
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # no header fits
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(parts.hex())
            parts = b""
    done = subprocess.run(
        [sys.executable, "-c", _AS_JSON], input="\n".join(records), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    yield from map(json.loads, done.stdout.splitlines())
