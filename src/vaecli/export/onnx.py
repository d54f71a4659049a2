"""ONNX: one file per part with a dynamic batch axis, run by onnxruntime to check it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vaecli._version import __version__
from vaecli.errors import VaecliError
from vaecli.export.parity import Runner
from vaecli.export.parts import Part

OPSET = 18
"""The oldest that torch exports to: what it needs, most runtimes have."""
MAX_BYTES = 2**31 - 1


def encode(part: Part) -> bytes:
    """The bytes of a self-contained `.onnx` file.

    Raises:
        VaecliError: it would pass the 2 GiB that protobuf allows one file.
    """
    batch = torch.export.Dim("batch")
    with _silence():
        program = torch.onnx.export(
            part.module,
            part.examples(2),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_shapes=tuple({0: batch} for _ in part.inputs),
            opset_version=OPSET,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto.graph)
    proto.producer_name, proto.producer_version = "vaecli", __version__
    for key, value in part.metadata.items():
        proto.metadata_props.add(key=key, value=value)
    if proto.ByteSize() > MAX_BYTES:
        raise VaecliError(
            f"export of the {part.name}: it needs {proto.ByteSize():,} bytes,"
            " and one ONNX file holds at most 2 GiB",
            "Use --format pt2.",
        )
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def load(data: bytes) -> Runner:
    """The file in onnxruntime on the CPU."""
    # or it leaves a device identifier and a database in the home; it is read on import
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # what older versions know, and Windows
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*batches: Tensor) -> list[Tensor]:
        given = {name: batch.numpy() for name, batch in zip(names, batches, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run


def usage(part: Part, path: str) -> str:
    """Python that runs the file at `path`."""
    shape = (1, *part.shape)
    label = "label = numpy.zeros(1, numpy.int64)\n" if part.classes else ""
    given = ", ".join(f"{name!r}: {name}" for name in part.inputs)
    return (
        "import numpy, onnxruntime\n"
        f"{part.name} = onnxruntime.InferenceSession({path!r})\n"
        f"{part.input} = numpy.zeros({shape}, numpy.float32)\n"
        f"{label}{', '.join(part.outputs)}{',' if len(part.outputs) == 1 else ''} ="
        f" {part.name}.run(None, {{{given}}})"
    )


def _strip(graph: Any) -> None:
    """Drop the exporter's metadata, which holds stack traces with local paths."""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    del graph.metadata_props[:]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporter's own progress and advice; failures still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
