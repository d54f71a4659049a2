"""The rules of the house: imports run one way, and heavy ones only where they are needed."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaecli
from conftest import TRAIN

SOURCE = Path(vaecli.__file__).parent

# a wing may import only from rows above its own; wings of one row do not import each other
LADDER = [
    ["errors", "_version"],
    ["system"],
    ["config", "philox"],
    ["noise"],
    ["model", "data"],
    ["runs"],
    ["evaluation"],
    ["pictures"],
    ["training", "export"],
    ["tracking"],
    ["api"],
    ["vaecli"],  # hands out the API, when it is asked for
    ["terminal"],
    ["cli"],
    ["__main__"],
]
ROW = {name: row for row, names in enumerate(LADDER) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "vaecli"


FILES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("vaecli.") in FILES else node.module


def own_imports(path: Path) -> Iterator[str]:
    """The modules of vaecli that a file imports, as `FILES` names them."""
    for imported in imports(path):
        if imported.split(".")[0] == "vaecli":
            yield imported.removeprefix("vaecli.")


def test_every_wing_has_a_row() -> None:
    assert {name.split(".")[0] for name in FILES} == set(ROW)


@pytest.mark.parametrize("name", FILES)
def test_imports_between_wings_run_one_way(name: str) -> None:
    wing = name.split(".")[0]
    for target in own_imports(FILES[name]):
        if (other := target.split(".")[0]) != wing:
            assert ROW[other] < ROW[wing], f"{name} imports {target}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {name: set(own_imports(path)) for name, path in FILES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_the_files_that_make_a_folder_a_package_are_empty() -> None:
    for path in SOURCE.rglob("*/__init__.py"):
        if path.parent != SOURCE:
            assert not path.read_text(), path


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("typer", ("cli.",)),
        ("rich", ("terminal.",)),
        ("matplotlib", ("pictures.plots",)),
        ("sklearn", ()),
        ("scipy", ("data.named.svhn",)),
        ("torchvision", ()),
        ("onnxruntime", ("export.onnx",)),
        ("huggingface_hub", ("runs.hub", "system.hub", "data.own.hub_data", "tracking.trackio")),
        ("pyarrow", ("data.own.parquet", "evaluation.scores")),
        ("umap", ("evaluation.latent_space",)),
        ("click", ()),
        ("tensorboard", ()),
        ("mlflow", ("tracking.mlflow",)),
        ("wandb", ("tracking.wandb",)),
        ("trackio", ("tracking.trackio",)),
        ("pickle", ()),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library: str, homes: tuple[str, ...]) -> None:
    for name, path in FILES.items():
        found = {imported.split(".")[0] for imported in imports(path)}
        if library in found:
            assert name.startswith(homes), f"{name} imports {library}"


def test_nothing_unpickles() -> None:
    for path in FILES.values():
        found = re.search(
            r"(?<!safetensors\.)torch\.load|\bpickle\.|import pickle|allow_pickle=True|\bexec\(",
            path.read_text(),
        )
        assert found is None, f"{path}: {found}"


def modules_after(code: str) -> set[str]:
    """The top-level names in sys.modules after `code` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(output.splitlines()[-1].split())


HEAVY = {
    *("torch", "numpy", "PIL", "safetensors", "platformdirs", "filelock", "matplotlib", "scipy"),
    *("torchvision", "sklearn", "onnx", "onnxruntime", "torch._dynamo", "torch._inductor"),
    *("tensorboard", "mlflow", "wandb", "trackio", "huggingface_hub", "pyarrow"),
}
TORCH = {"torch", "numpy"}
"""Importing torch imports numpy."""
PICTURES = {"numpy", "PIL", "safetensors"}
READING = TORCH | PICTURES


def test_what_each_command_loads(trained: Path, data_dir: Path, tmp_path: Path) -> None:
    """Nothing heavy before it is needed: torch costs seconds, torchvision and Dynamo more."""
    model, digit = ["-m", str(trained), "-q", "-f"], str(tmp_path / "digit.png")
    data = ["--data-dir", str(data_dir)]
    commands = {
        "sample": (["sample", *model, "-n", "1", "-o", digit], PICTURES),
        "reconstruct": (["reconstruct", digit, *model, "-o", digit + ".png"], PICTURES),
        "heatmap": (["reconstruct", digit, *model, "-o", digit + ".png", "--heatmap"], PICTURES),
        "eval": (["eval", "-m", str(trained), "-q", *data], READING | {"platformdirs"}),
        "train": (
            # pictures come last: matplotlib is loaded when all is safe and shown
            [*TRAIN, "-e", "1", "-q", *data, "-o", str(tmp_path / "run")],
            READING | {"platformdirs", "filelock", "matplotlib"},
        ),
    }
    script = f"""
import contextlib, io, sys
from vaecli.cli import app as cli
from vaecli.training.events import Finished
finished = Finished.__init__
def watch(self, *values):
    print("finished", *sys.modules, file=sys.stderr)
    finished(self, *values)
Finished.__init__ = watch
for name, (arguments, _) in {commands!r}.items():
    assert cli.run(arguments) == 0
    print(name, *sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.split()[0]: HEAVY & {*line.split()} for line in done.stderr.splitlines()}
    for name, (_, expected) in commands.items():
        assert loaded[name] == expected, name
    assert "matplotlib" not in loaded["finished"]


def test_help_is_instant() -> None:
    heavy = HEAVY
    for arguments in ([], ["--help"], ["--version"], ["train", "--help"], ["eval", "--help"]):
        loaded = modules_after(f"from vaecli.cli.app import run; run({arguments})")
        assert not heavy & loaded, arguments
        assert ("typer" in loaded) == (arguments != ["--version"])
