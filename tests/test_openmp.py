"""Threads of torch do not keep their cores while they wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vaecli.system import openmp

SETTINGS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def spin_count(**variables: str) -> str:
    """What libgomp says it does in a process of vaecli that has loaded torch."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-m", "vaecli", "--version", "--verbose"],
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = done.stderr.partition("GOMP_SPINCOUNT = '")[2]
    return shown.partition("'")[0]


@pytest.mark.skipif(sys.platform != "linux", reason="torch uses GNU OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("variables", "count"),
    [({}, openmp.SPIN_COUNT), ({"GOMP_SPINCOUNT": "77"}, 77), ({"OMP_WAIT_POLICY": "PASSIVE"}, 0)],
    ids=["default", "the user's count", "the user's policy"],
)
def test_a_waiting_thread_gives_its_core_away(variables: dict[str, str], count: int) -> None:
    assert spin_count(**variables) == str(count)
