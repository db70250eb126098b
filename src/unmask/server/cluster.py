"""Replicas under Ray Serve: the same app in each of several processes, on one machine or many, and the way to them.

Ray starts them, replaces those that die, and adds and removes some with the load; `prefixes` says which one a request
goes to. Only this file and `batch_ray` import Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, TaskCancelledError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from unmask.lm import LM
from unmask.server.app import Page, create_app
from unmask.server.door import BusyError, LostReplicaError
from unmask.server.prefixes import Prefixes
from unmask.server.relay import Answer, Asked, Head, answer_of
from unmask.server.settings import Settings

NAME, REPLICA = "unmask", "replica"
OBJECT_STORE = 100 << 20  # bytes; requests and answers are small
BESIDES = 8  # requests of a replica that are no generations: health, metrics, lists of models
HEALTH_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """loading: what `LM.load` takes, `max_live` among it. least, most: bounds of the number of replicas.
    cpus, gpus: what Ray sets aside for each; a replica computes with as many threads as it has CPUs. page: as in
    `create_app`.
    """

    loading: Mapping[str, Any]
    settings: Settings
    least: int
    most: int
    cpus: float
    gpus: int = 0
    page: Page | None = None

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ValueError(f"replicas must be at least 1, got {self.least}")
        if self.most < self.least:
            raise ValueError(f"max_replicas must be at least replicas ({self.least}), got {self.most}")
        if not self.cpus > 0:
            raise ValueError(f"cpus_per_replica must be above 0, got {self.cpus}")


class Replica:
    """What runs in one of Ray's processes: a loaded model and its app, asked without a socket in between."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, loading: Mapping[str, Any], settings: Settings, page: Page | None
    ) -> None:
        logging.getLogger("unmask.server").setLevel(logging.INFO)
        self.name = serve.get_replica_context().replica_id.unique_id
        self.app = create_app(await asyncio.to_thread(lambda: LM.load(**loading)), settings, page)
        self.life = AsyncExitStack()
        await self.life.enter_async_context(self.app.router.lifespan_context(self.app))

    async def answer(self, asked: Asked) -> AsyncIterator[Head | bytes]:
        async for part in answer_of(self.app, asked, self.name):
            yield part

    async def check_health(self) -> None:
        """Called by Ray now and then; a replica that raises is replaced."""
        fine, found = await self.app.state.service.health()
        if not fine:
            raise RuntimeError(f"this replica is {found['status']}; its pages: {found['invariant']}")

    async def __del__(self) -> None:  # Ray awaits it when a replica has no more requests and is to end
        await self.life.aclose()
        self.app.state.service.lm.close()


class Router(RequestRouter):  # type: ignore[misc]  # Ray's classes are not seen by the type checker
    """Ray's way to have a say in where a request goes."""

    def initialize_state(self) -> None:
        self.prefixes = Prefixes()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where all are full, wait before asking again
        asked: Asked = pending_request.args[0]
        byname = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if asked.to is not None:
            return [[byname[name]] for name in sorted(byname)[asked.to : asked.to + 1]] or [candidate_replicas]
        self.prefixes.keep(list(byname))
        return [[byname[name]] for name in self.prefixes.ranked(asked.chain, list(byname))]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        chain = pending_request.args[0].chain
        self.prefixes.begin(pending_request.metadata.internal_request_id, chain, replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self.prefixes.end(internal_request_id)


class Cluster:
    """The replicas, as the door knows them."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle.options(stream=True)

    async def ask(self, asked: Asked) -> Answer:
        answer, ended = self.handle.answer.remote(asked), False
        try:
            async for part in answer:
                yield part
            ended = True
        except BackPressureError:
            raise BusyError from None
        except TaskCancelledError:
            raise
        except (RayError, DeploymentUnavailableError) as error:
            ended = True
            raise LostReplicaError from error
        finally:
            if not ended:
                answer.cancel()

    async def states(self) -> dict[str, int]:
        status = await asyncio.to_thread(serve.status)
        states = status.applications[NAME].deployments[REPLICA].replica_states
        return {str(getattr(state, "value", state)).lower(): count for state, count in states.items()}


@contextmanager
def connected() -> Iterator[None]:
    """The cluster that RAY_ADDRESS names, or a Ray of our own that ends at last."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let everything else on the machine go first
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    own = {} if os.environ.get("RAY_ADDRESS") else local()
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **own)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def started(fleet: Fleet) -> Iterator[Cluster]:
    """Start the replicas; end them at last. RuntimeError, with what Ray says, where they do not come up."""
    with connected():
        try:
            serve.start(proxy_location="Disabled", logging_config=quiet())
            app = deployment(fleet).bind(dict(fleet.loading), fleet.settings, fleet.page)
            yield Cluster(serve.run(app, name=NAME, route_prefix=None, logging_config=quiet()))
        finally:
            serve.shutdown()


def told_by(error: Exception) -> str:
    """The last line of what Ray says, which is where it names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "Ray says no more"


def deployment(fleet: Fleet) -> Any:
    """The replicas as Ray is told of them."""
    settings, live = fleet.settings, fleet.loading.get("max_live") or 64
    number: dict[str, Any] = {"num_replicas": fleet.least}
    if fleet.most > fleet.least:
        bounds = {"min_replicas": fleet.least, "max_replicas": fleet.most, "initial_replicas": fleet.least}
        number = {"autoscaling_config": {**bounds, "target_ongoing_requests": live}}
    return serve.deployment(
        Replica,
        name=REPLICA,
        **number,
        # Its app has the queue, and says 429 where that is full; Ray only stops what would pile up behind it.
        max_ongoing_requests=live + settings.max_queue + BESIDES,
        max_queued_requests=fleet.most * (live + settings.max_queue + BESIDES),
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=6 * HEALTH_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.shutdown_seconds + HEALTH_SECONDS,
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
        request_router_config=RequestRouterConfig(request_router_class=Router),
    )


def quiet() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def local() -> dict[str, Any]:
    """A Ray of our own: as small as one can be, and for this machine only."""
    return {
        "address": "local",
        "num_cpus": processors(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }


def processors() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
