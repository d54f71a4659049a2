"""Work in threads, whose results come in order."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Items and their results in order; a bounded number of items is worked on ahead.

    Args:
        work: called in a thread.
        items: its arguments.
        workers: number of threads; None for one on each core.
    """
    items = list(items)
    workers = min(workers or cores(), len(items))
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return
    from concurrent.futures import ThreadPoolExecutor

    pending: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    executor = ThreadPoolExecutor(workers)
    try:
        for item in itertools.islice(source, 2 * workers + 1):
            pending.append((item, executor.submit(work, item)))
        while pending:
            item, future = pending.popleft()
            result = future.result()
            for following in itertools.islice(source, 1):
                pending.append((following, executor.submit(work, following)))
            yield item, result
    finally:
        executor.shutdown(cancel_futures=True)
