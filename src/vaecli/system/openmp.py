"""How long threads of a computation wait for each other before they give their core away."""

from __future__ import annotations

import os

SPIN_COUNT = 3000
"""How often a waiting thread looks again before it sleeps; libgomp's own choice is 300,000.

Fewer help more beside a busy core, but 1,000 cost an eighth of the speed of the default training on
a quiet machine, where 5,000 cost nothing (benchmarks/busy_core.py, docs/faq.md).  On a faster one,
an EPYC with AVX-512, 1,000 cost a fifth, 3,000 a tenth, and 10,000 3 % but helped no more.
"""


def wait_briefly() -> None:
    """Let the waiting threads of GNU OpenMP, which torch uses on Linux, spin a short while only.

    They wait for each other at the end of every operation.  If another program has taken the core
    of one, all others would occupy theirs meanwhile, and training would be many times slower.  What
    the user has set stays.  To be called before torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
