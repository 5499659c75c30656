"""Optional mirrors of ``metrics.jsonl``: TensorBoard, W&B, MLflow.

The file is the truth; a tracker may fail, and never stops or delays a run: it is fed from a thread
of the driver, which reads the file as it grows. What was sent, and the trackers' own run ids,
stand in ``trackers.json`` beside it, so that a resumed training goes on in the same tracker run
and steps that a resume repeats are not sent twice. Logins come from the environment only
(``WANDB_API_KEY``, ``MLFLOW_TRACKING_URI`` and the variables of these libraries).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from memo_dist.config.schema import TrackConfig
from memo_dist.io import atomic
from memo_dist.observability.redact import redact

STATE = "trackers.json"
POLL_SECONDS = 2.0
CLOSE_SECONDS = 20.0
"""Seconds that trackers have to send the rest when a training ends."""

_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One tracker's run."""

    @property
    def run_id(self) -> str:
        """What the tracker knows this run by; given again on a resume."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics of one optimizer step."""
        ...

    def close(self) -> None:
        """Send what is buffered."""
        ...


class TensorBoardTracker:
    """Event files in ``<folder>/tensorboard``; a resume adds one."""

    def __init__(self, folder: Path, name: str, run_id: str | None, settings: TrackConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = run_id or "tensorboard"
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        for key, value in values.items():
            self._writer.add_scalar(f"train/{key}", value, step)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._writer.close()


WANDB_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "save_code": False,
    "host": "hidden",
    "x_disable_meta": True,  # arguments, program, Python, operating system, hardware
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""W&B is sent metrics and the names of run and project. By itself it would also collect the
command's arguments (paths, endpoints), the host's name, the commit and the installed packages."""


class WandbTracker:
    """A W&B run; offline where WANDB_MODE says so, never a login prompt."""

    def __init__(self, folder: Path, name: str, run_id: str | None, settings: TrackConfig) -> None:
        import wandb

        if os.environ.get("WANDB_MODE", "online") == "online" and not _has_wandb_login():
            raise RuntimeError("set WANDB_API_KEY, or WANDB_MODE=offline")
        self._run: Any = wandb.init(
            project=settings.project,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(**WANDB_SETTINGS),
        )
        self.run_id = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._run.finish()


class MlflowTracker:
    """An MLflow run at MLFLOW_TRACKING_URI."""

    def __init__(self, folder: Path, name: str, run_id: str | None, settings: TrackConfig) -> None:
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            raise RuntimeError("set MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=place)
        found = self._client.get_experiment_by_name(settings.project)
        experiment = (
            found.experiment_id if found else self._client.create_experiment(settings.project)
        )
        if run_id is None:
            run_id = str(self._client.create_run(experiment, run_name=name).info.run_id)
        self.run_id = run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Tracker`."""
        from mlflow.entities import Metric

        metrics = [Metric(key, value, 0, step) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics)

    def close(self) -> None:
        """See :class:`Tracker`."""
        self._client.set_terminated(self.run_id)


Opener = Callable[[Path, str, str | None, TrackConfig], Tracker]
TRACKERS: dict[str, Opener] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}
"""What ``track.to`` may name: called with folder, run name, run id (None: a new run), settings."""


class MetricsMirror(threading.Thread):
    """Sends the metrics of one folder to its trackers until :meth:`finish`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: TrackConfig,
        openers: Mapping[str, Opener] = TRACKERS,
    ) -> None:
        """Mirror ``folder/metrics.jsonl`` to ``settings.to`` as a run called ``name``."""
        super().__init__(name="trackers", daemon=True)
        self._folder, self._name, self._settings = folder, name, settings
        self._openers = {key: openers[key] for key in settings.to}
        self._open: dict[str, Tracker] = {}
        self._state = _read_state(folder)
        self._ended = threading.Event()

    def run(self) -> None:
        """Open the trackers, feed them as the file grows, and close them."""
        if not self._openers:
            return
        for key, opener in self._openers.items():
            self._guarded(key, partial(self._start, key, opener))
        while not self._ended.wait(POLL_SECONDS):
            self._pump()
        self._pump()
        for key in tuple(self._open):
            self._guarded(key, self._open[key].close)

    def finish(self) -> None:
        """Ask for the rest to be sent, and wait at most :data:`CLOSE_SECONDS` for it."""
        self._ended.set()
        if self._openers:
            self.join(CLOSE_SECONDS)
            if self.is_alive():
                _log.warning("trackers of %s did not finish in time; the run goes on", self._name)

    def _start(self, key: str, opener: Opener) -> None:
        known = self._state.setdefault(key, {"run_id": None, "step": 0})
        tracker = opener(self._folder, self._name, known["run_id"], self._settings)
        self._open[key] = tracker
        known["run_id"] = tracker.run_id

    def _pump(self) -> None:
        """Send the steps that a tracker has not seen."""
        for key in tuple(self._open):
            self._guarded(key, partial(self._send, key))
        _write_state(self._folder, self._state)

    def _send(self, key: str) -> None:
        known = self._state[key]
        for step, values in _steps_after(self._folder / "metrics.jsonl", known["step"]):
            self._open[key].log(step, values)
            known["step"] = step

    def _guarded(self, key: str, action: Callable[[], None]) -> None:
        """A tracker that fails is left out from then on, with one warning."""
        try:
            action()
        except Exception as error:
            self._open.pop(key, None)
            text = redact(f"{type(error).__name__}: {error}")
            _log.warning("tracker %s of %s is off from here on: %s", key, self._name, text)


def _steps_after(path: Path, step: int) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, numbers) of the file's complete lines beyond ``step``, in order."""
    if not path.exists():
        return
    for _, row in atomic.whole_rows(path):
        if row.get("step", 0) > step:
            skipped = ("step", "time")
            yield (
                row["step"],
                {
                    key: float(value)
                    for key, value in row.items()
                    if key not in skipped and isinstance(value, int | float)
                },
            )


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE
    return dict(atomic.read_json(path)) if path.exists() else {}


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    try:
        if _read_state(folder) != state:
            atomic.write_json(folder / STATE, state)
    except OSError as error:
        _log.warning("%s cannot be written: %s", folder / STATE, error)


def _has_wandb_login() -> bool:
    return bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))
