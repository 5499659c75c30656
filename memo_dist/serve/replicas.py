"""Answers by replicas of the memory, which Ray Serve places, scales, and replaces when they die.

The server's process keeps everything else: keys, limits, the buffer, consolidation and scopes. It
hands batches of questions to the replicas, with the documents that are hidden at that moment and
the number of its generation. Ray Serve's own HTTP proxy is off.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from memo_dist.answering import Answered
from memo_dist.cluster.ray_local import ray_session
from memo_dist.cluster.resources import Resources
from memo_dist.config.schema import Config
from memo_dist.config.serve_schema import ServeConfig
from memo_dist.errors import RunError, UsageError
from memo_dist.io.generations import current_number
from memo_dist.io.runfolder import RunFolder
from memo_dist.serve.engine import Answering, Known, load_known
from memo_dist.serve.hidden import Hides, comes_from
from memo_dist.serve.keys import VARIABLE
from memo_dist.serve.replica import Heard, Replica

logger = logging.getLogger(__name__)

_TRIES = 3
"""Of a batch: two replicas may die at once, and a question that kills its replica must end."""
_HEALTH_SECONDS = 2.0
_POLL_SECONDS = 0.2
_ROUNDING = 1e-9
_ENVIRONMENT = {"RAY_worker_niceness": "0"}
"""Ray starts its workers with a niceness of 15; these answer users.
https://github.com/ray-project/ray/pull/24928"""


@contextmanager
def session(config: Config) -> Iterator[None]:
    """Ray for the replicas while the block lasts; its processes do not get the server's keys.

    Raises:
        UsageError: this machine has too few cores or GPUs for them.
        RunError: Ray does not start, or is not there.
    """
    os.environ.pop(VARIABLE, None)
    with ray_session(config.cluster, env=_ENVIRONMENT) as offered:
        if not config.cluster.address:  # a cluster may add nodes
            check_room(config.serve, offered)
        yield


def most(settings: ServeConfig) -> int:
    """The largest number of replicas."""
    return max(settings.replicas, settings.max_replicas)


def check_room(settings: ServeConfig, offered: Resources) -> None:
    """Refuse replicas that would wait for cores or GPUs for ever.

    Raises:
        UsageError: says what they need and what there is.
    """
    count = most(settings)
    cores, gpus = count * settings.replica_cpus, count * settings.replica_gpus
    if cores > offered.cores + _ROUNDING or count > _fitting(settings.replica_gpus, offered.gpus):
        raise UsageError(
            f"{count} replicas (serve.replicas, serve.max_replicas) need {cores:g} cores and"
            f" {gpus:g} GPUs, this machine has {offered.cores} and {offered.gpus}: lower their"
            " number, serve.replica_cpus or serve.replica_gpus, or name a cluster.address"
        )


def _fitting(share: float, gpus: int) -> float:
    """Replicas that so many GPUs hold: a share lies on one GPU, never on two."""
    if not share:
        return math.inf
    if share >= 1:
        return gpus // math.ceil(share)
    return gpus * math.floor(1 / share + _ROUNDING)


def deployment_options(settings: ServeConfig) -> dict[str, Any]:
    """What Ray Serve is asked for: number, shares and scaling of the replicas."""
    options: dict[str, Any] = {
        "name": "memory",
        "ray_actor_options": {
            "num_cpus": settings.replica_cpus,
            "num_gpus": settings.replica_gpus,
        },
        # All batches in progress fit on one replica, and a change of generation beside them: Ray
        # Serve's own queue waits for up to half a second between two looks.
        "max_ongoing_requests": batches_at_once(settings) * len(settings.modes) + 1,
        "health_check_period_s": _HEALTH_SECONDS,
        "graceful_shutdown_timeout_s": settings.drain_seconds,
        "graceful_shutdown_wait_loop_s": _POLL_SECONDS,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    if most(settings) == settings.replicas:
        return {**options, "num_replicas": settings.replicas}
    scaling = {
        "min_replicas": settings.replicas,
        "max_replicas": settings.max_replicas,
        "target_ongoing_requests": settings.target_batches,
        "upscale_delay_s": settings.scale_up_seconds,
        "downscale_delay_s": settings.scale_down_seconds,
        "look_back_period_s": max(1.0, min(settings.scale_up_seconds, 30.0)),
    }
    return {**options, "autoscaling_config": scaling}


def batches_at_once(settings: ServeConfig) -> int:
    """Batches of one mode in progress: enough to keep all replicas at work, and to show Ray Serve
    that more of them are needed."""
    if most(settings) == settings.replicas:
        return settings.replicas
    return max(settings.max_replicas, math.ceil(settings.max_replicas * settings.target_batches))


class Replicas(Answering):
    """An engine whose answers come from replicas; threads may share it."""

    def __init__(self, run: RunFolder, config: Config, hides: Hides) -> None:
        """See :class:`Answering`; :meth:`refresh` starts the replicas, inside :func:`session`.

        All nodes see the folder of ``run``; what ``hides`` gives is sent with each batch.
        """
        super().__init__(run, config, hides)
        self.at_once = batches_at_once(config.serve)
        self._application = f"memo-dist-{uuid.uuid4().hex}"
        self._known: Known | None = None
        self._handle: Any = None

    def _current(self) -> Known | None:
        """Of the generation that all replicas have loaded."""
        return self._known

    def refresh(self) -> bool:
        """Have all replicas load the generation that holds; whether there was a change.

        The first call starts the replicas. A replica answers from the generation before while it
        loads, so both are in its memory for a while.

        Raises:
            UsageError, RunError: a replica cannot load it, or not in time. Replicas that have
                loaded it answer from it, the others from the one before.
        """
        with self._loading:
            if current_number(self._run.generations) == self.number:
                return False
            known = load_known(self._run.pin())
            deadline = time.monotonic() + self._config.serve.replica_start_seconds
            if self._handle is None:
                self._handle = self._start(deadline)
            else:
                self._switch(known.number, deadline)
                logger.info("generation %d answers", known.number)
            self._known = known
            return True

    def answer(self, mode: str, questions: Sequence[str]) -> list[Answered]:
        """Answers of a mode, in the order of the questions; another replica is asked if one dies.

        An answer that comes from a document which was hidden meanwhile is asked for again.

        Raises:
            UsageError, RunError: see ``Answerer.answer``; no replica answers.
        """
        found: list[Answered | None] = [None] * len(questions)
        while open_places := [place for place, one in enumerate(found) if one is None]:
            hidden = dict(self._hides())
            heard = self._ask(mode, [questions[place] for place in open_places], hidden)
            fresh = self._hides().items() - hidden.items()
            for place, answered in zip(open_places, heard.answers, strict=True):
                found[place] = None if comes_from(answered, dict(fresh)) else answered
        return [one for one in found if one is not None]

    def close(self) -> None:
        """End the replicas of this server, and Ray Serve where nobody else uses it."""
        if self._handle is None or not ray.is_initialized() or not self._config.cluster.address:
            return  # a session on this machine ends with all that is in it
        try:
            serve.delete(self._application)
            left = serve.status()
            if not left.applications and not left.proxies:  # proxies: another user's, who waits
                serve.shutdown()
        except (RayError, RayServeException, TimeoutError) as error:
            logger.error("the replicas were not ended: %s", type(error).__name__)

    def _ask(self, mode: str, questions: Sequence[str], hidden: Mapping[str, str]) -> Heard:
        for _ in range(_TRIES):
            number = self.number
            heard = self._asked_once(mode, questions, hidden, number)
            if heard is None:
                continue
            if heard.error is not None:
                raise heard.error
            if heard.generation >= number:
                return heard
            time.sleep(_POLL_SECONDS)  # its node does not see the newer generation yet
        raise RunError(f"no replica answers in {_TRIES} tries: they ended, or are behind")

    def _asked_once(
        self, mode: str, questions: Sequence[str], hidden: Mapping[str, str], number: int
    ) -> Heard | None:
        """None: the replica died."""
        seconds = self._config.serve.answer_seconds
        response = self._handle.answer.remote(mode, list(questions), dict(hidden), number)
        try:
            heard: Heard = response.result(timeout_s=seconds)
        except TimeoutError:
            response.cancel()
            raise RunError(f"no replica answered in {seconds:g} s (serve.answer_seconds)") from None
        except RayTaskError:
            raise  # a fault of ours
        except (RayError, RayServeException) as error:
            logger.warning("a replica did not answer: %s", type(error).__name__)
            return None
        return heard

    def _start(self, deadline: float) -> Any:
        _quiet()
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        job = ray.get_runtime_context().get_job_id()
        replica = serve.deployment(**deployment_options(self._config.serve))(Replica)
        bound = replica.bind(str(self._run.root.resolve()), self._config, self._application, job)
        target = serve.RunTarget(bound, name=self._application, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)
        try:
            self._await_running(deadline)
        except BaseException:
            serve.delete(self._application, _blocking=False)
            raise
        return serve.get_app_handle(self._application).options(_by_reference=True)

    def _await_running(self, deadline: float) -> None:
        settings = self._config.serve
        while True:
            found = serve.status().applications.get(self._application)
            if found is not None and found.status == ApplicationStatus.RUNNING:
                return
            if found is not None and found.status == ApplicationStatus.DEPLOY_FAILED:
                raise RunError(f"the replicas do not start: {_why(found)}")
            if time.monotonic() > deadline:
                raise RunError(
                    f"the replicas have not started within {settings.replica_start_seconds:g} s"
                    f" (serve.replica_start_seconds): {settings.replicas} with"
                    f" {settings.replica_cpus:g} cores and {settings.replica_gpus:g} GPUs each"
                    f" (serve.replicas, serve.replica_cpus, serve.replica_gpus)"
                )
            time.sleep(_POLL_SECONDS)

    def _switch(self, number: int, deadline: float) -> None:
        """Until every living replica has a generation; one that starts later loads it itself."""
        while True:
            left = max(1.0, deadline - time.monotonic())
            try:
                response = self._handle.broadcast("refresh")
                heard = response.results(timeout_s=left, return_exceptions=True)
            except (TimeoutError, RayError, RayServeException) as error:
                heard = [error]  # also where no replica lives at this moment
            for one in heard:
                if isinstance(one, Heard) and one.error is not None:
                    raise one.error
                if isinstance(one, RayTaskError):
                    what = type(one.cause).__name__
                    raise RunError(f"a replica cannot load generation {number}: {what}") from one
            if all(isinstance(one, Heard) and one.generation >= number for one in heard):
                return
            if time.monotonic() > deadline:
                raise RunError(
                    f"not all replicas have loaded generation {number} within"
                    f" {self._config.serve.replica_start_seconds:g} s (serve.replica_start_seconds)"
                )
            time.sleep(_POLL_SECONDS)


def _why(found: Any) -> str:
    """The last line of what Ray Serve says of an application that failed."""
    texts = [found.message, *(one.message for one in found.deployments.values())]
    lines = [line.strip() for text in texts for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else "Ray Serve does not say why"


def _quiet() -> None:
    """Ray Serve's lines are no JSON; its warnings are told here in other words."""
    of_ray = logging.getLogger("ray.serve")
    of_ray.handlers[:] = [logging.NullHandler()]
    of_ray.propagate = False
