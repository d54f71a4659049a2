"""Optional packages: checked when a feature needs them, never installed by vaecli."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from vaecli.errors import EnvironmentFailure

EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub": ("huggingface_hub", "pyarrow"),
    "heic": ("pillow_heif",),
    "umap": ("umap",),
    "mat": ("scipy",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""The packages of each extra in pyproject.toml, under the names they are imported by."""

PROJECTS = {
    "pillow_heif": "pillow-heif",
    "umap": "umap-learn",
    "mlflow": "mlflow-skinny",
}
"""Names on the package index that differ from the import name."""


def require(extra: str, purpose: str, packages: Iterable[str] | None = None) -> None:
    """Check that the packages of an extra, or some of them, are installed.

    Raises:
        EnvironmentFailure: one is missing; the hint is the command that installs the extra.
    """
    needed = EXTRAS[extra] if packages is None else packages
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFailure(
            f"{purpose}: it needs vaecli[{extra}]: not installed: {', '.join(missing)}",
            f"Install it with: {install_line(extra, Path(sys.prefix))}",
        )


def install_line(extra: str, prefix: Path, *, active: bool = False) -> str:
    """The command that installs an extra at `prefix`: pip, pipx or uv, whichever created it.

    Args:
        extra: one of `EXTRAS`.
        prefix: folder of the environment.
        active: take the environment for the active one, which need not be named by its path.
    """
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject vaecli {' '.join(PROJECTS.get(name, name) for name in EXTRAS[extra])}"
    settings = prefix / "pyvenv.cfg"
    made_by_uv = settings.is_file() and "\nuv = " in settings.read_text(errors="replace")
    if made_by_uv or (prefix / "uv-receipt.toml").is_file():
        python = "" if active else f' --python "{sys.executable}"'
        return f'uv pip install{python} "vaecli[{extra}]"'
    python = "" if active else f'"{sys.executable}" -m '
    return f'{python}pip install "vaecli[{extra}]"'
