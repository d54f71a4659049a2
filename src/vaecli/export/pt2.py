"""torch.export's own format: one `.pt2` file per part with a dynamic batch axis."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from vaecli.export.parity import Runner
from vaecli.export.parts import Part
from vaecli.system.strict_json import canonical_json

METADATA_FILE = "vaecli.json"
"""The entry of the archive that holds the metadata."""


def encode(part: Part) -> bytes:
    """The bytes of a `.pt2` file."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        part.module, part.examples(2), dynamic_shapes=tuple({0: batch} for _ in part.inputs)
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_FILE: canonical_json(part.metadata)})
    return file.getvalue()


def load(data: bytes) -> Runner:
    """The file in torch, to check what was just written: it may hold pickled values."""
    module = torch.export.load(io.BytesIO(data)).module()

    def run(*batches: Tensor) -> list[Tensor]:
        result = module(*batches)
        return list(result) if isinstance(result, tuple) else [result]

    return run


def usage(part: Part, path: str) -> str:
    """Python that runs the file at `path`."""
    shape = ", ".join(map(str, (1, *part.shape)))
    label = ", torch.zeros(1, dtype=torch.int64)" if part.classes else ""
    return (
        "import torch\n"
        f"{part.name} = torch.export.load({path!r}).module()\n"
        f"{', '.join(part.outputs)} = {part.name}(torch.zeros({shape}){label})"
    )
