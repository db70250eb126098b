"""Samples of a suite that are missing are made, several of them in hand at once: each has a thread of its own, and the
model serves them all in the same forwards (`LM` steps for whoever waits). In `exact` the texts are those of one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from unmask.evaluation.rows import Row, Rows

MOST = 64
TIMES = ("seconds", "cpu_seconds")  # of a sample that had the machine for itself


def check_at_once(at_once: int) -> None:
    if not 1 <= at_once <= MOST:
        raise ValueError(f"at_once must be between 1 and {MOST}, got {at_once}")


def together(
    rows: Rows,
    work: Mapping[str, Callable[[], Row]],
    at_once: int,
    progress: Callable[[Sequence[Row]], None] = lambda done: None,
) -> list[Row]:
    """The rows of all keys, in their order; those that the file has not are made, and written as they come.

    at_once: above 1 the rows have no times, which are those of all in hand. progress: gets the rows that are there, in
    no order, whenever one more is. An error ends it after the samples that are in hand.
    """
    done = {key: row for key in work if (row := rows.get(key)) is not None}
    progress(list(done.values()))
    with ThreadPoolExecutor(at_once, "unmask-sample") as pool:
        making = {pool.submit(make): key for key, make in work.items() if key not in done}
        try:
            for future in as_completed(making):
                key = making[future]
                done[key] = rows.add(key, timeless(future.result()) if at_once > 1 else future.result())
                progress(list(done.values()))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[key] for key in work]


def timeless(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in TIMES}
