from __future__ import annotations

from pathlib import Path

import pytest

from vaecli.cli import outputs
from vaecli.errors import UsageError
from vaecli.system import files


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.d").mkdir()
    Path("plain").write_text("x")
    for name, expected in {
        "-": "stdout",
        "there.d": "folder",
        "new/": "folder",
        "new": "folder",
        "a.png": "file",
        "A.PNG": "file",
    }.items():
        assert outputs.kind(name, (".png",)) == expected, name
    for name in ("a.jpg", "plain"):
        with pytest.raises(UsageError, match=r"neither a folder nor \.png"):
            outputs.kind(name, (".png",))


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    files.require_new([tmp_path / "file", tmp_path / "new"], force=True)
    with pytest.raises(UsageError, match="exists"):
        files.require_new([tmp_path / "file"], force=False)
    for special in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match=r"folder|regular"):
            files.require_new([special], force=True)


def test_free_names_count_up(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    assert outputs.free_name(path) == path
    path.touch()
    (tmp_path / "samples-2.png").symlink_to("nowhere")
    assert outputs.free_name(path).name == "samples-3.png"
