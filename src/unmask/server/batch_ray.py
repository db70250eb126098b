"""A batch on Ray Data: lines are the rows of a dataset, answered by processes that each hold a copy of the model.

Ray starts them, hands out the lines, starts a process anew that has died and gives it its lines again. What they answer
comes back to the one process that writes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray.data
from ray.exceptions import RayError

from unmask.lm import LM
from unmask.server.batch import answer
from unmask.server.batch_ask import AHEAD, BrokenOffError, InProcess
from unmask.server.batch_files import Asked
from unmask.server.cluster import Fleet, told_by
from unmask.server.settings import Settings

T = TypeVar("T")
log = logging.getLogger("unmask.server")
# Lines that Ray is given at a time: one where there are few, so that what is done is written at once and nothing else
# is done again; more where there are many, since each time costs some milliseconds.
FEW, MOST_A_TASK = 1000, 8


class Worker:
    """What runs in one of Ray's processes: a loaded model, asked by as many of Ray's threads as it takes lines."""

    def __init__(self, loading: Mapping[str, Any], settings: Settings) -> None:
        self.asking = InProcess(LM.load(**loading), settings)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.wait_for(self.asking.start())

    def __call__(self, rows: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
        try:
            return {"results": [json.dumps(self.wait_for(self.answers(row))) for row in rows["asked"]]}
        except BrokenOffError as error:
            log.error("this process ends: %s", error)
            os._exit(1)  # Ray starts another in its place

    async def answers(self, row: str) -> list[dict[str, Any]]:
        return await asyncio.gather(*(answer(self.asking, Asked(*line)) for line in json.loads(row)))

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


def dumped(lines: Sequence[Asked]) -> str:
    return json.dumps([[line.number, line.value, line.problem] for line in lines])


def results(fleet: Fleet, lines: Sequence[Asked]) -> Iterator[dict[str, Any]]:
    """What each line is answered, in the order in which they are done. While `cluster.connected`.

    fleet.loading must name `max_live`; a worker has so many lines at a time, and AHEAD more that wait. BrokenOffError,
    with what Ray says, where it gives up.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it gives up for is told by the error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.default_map_logical_memory_enabled = False  # what a model takes is not 2 GB a CPU
    per_task = min(1 + len(lines) // FEW, MOST_A_TASK)
    rows = [{"asked": dumped(lines[begin : begin + per_task])} for begin in range(0, len(lines), per_task)]
    calls = math.ceil((fleet.loading["max_live"] + AHEAD) / per_task)
    answered = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=(dict(fleet.loading), fleet.settings),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=fleet.least,
            max_size=fleet.most,
            max_tasks_in_flight_per_actor=calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=fleet.cpus,
        num_gpus=fleet.gpus,
    )
    try:
        for row in answered.iter_rows():
            yield from json.loads(row["results"])
    except RayError as error:
        raise BrokenOffError(f"Ray gives up: {told_by(error)}") from error
