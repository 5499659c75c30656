"""A job on a running Ray cluster, through its job server (what ``ray job submit`` uses).

Nothing is uploaded: the run folder, the corpus and memo_dist itself lie on file systems that the
cluster's machines share. No secret travels: the job's command and environment are shown to
everyone who may see the cluster's dashboard, so keys belong into the cluster's own environment.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_dist.config import Config
from memo_dist.errors import RunError, UsageError
from memo_dist.io.urls import read_url
from memo_dist.launch import jobs
from memo_dist.launch.jobs import JobState
from memo_dist.launch.verbs import VerbCall

CARRIED = ("PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HOME", "MEMO_DIST_CACHE")
"""Variables of the submitter that the job gets, where they are set."""
CONNECT_SECONDS = 10
AGENT_SECONDS = 90
_NO_AGENT = "No available agent"
TOKEN_FILE = Path("~/.ray/auth_token")
_ADDRESS = 'cluster.address="$RAY_ADDRESS"'


@dataclass(frozen=True)
class RayPlan:
    """What would be submitted.

    Attributes:
        address: of the job server.
        entrypoint: the shell command of the job.
        environment: its variables.
    """

    address: str
    entrypoint: str
    environment: dict[str, str]

    def describe(self) -> str:
        """The equivalent of ``ray job submit``, as ``--dry-run`` prints it."""
        names = " ".join(f"{k}={shlex.quote(v)}" for k, v in sorted(self.environment.items()))
        return (
            f"# on {self.address}, nothing is uploaded\n# environment: {names}\n{self.entrypoint}\n"
        )

    def submit(self) -> RayJob:
        """Submit it.

        Raises:
            RunError: nobody answers at the address, or the job server refuses.
        """
        client = _client(self.address)
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                ident = client.submit_job(
                    entrypoint=self.entrypoint, runtime_env={"env_vars": self.environment}
                )
                break
            except RuntimeError as error:
                # A cluster answers before the process that starts its jobs is there.
                early = _NO_AGENT in str(error) and time.monotonic() < deadline
                if not early:
                    raise RunError(
                        f"the Ray cluster refuses the job: {_first_line(error)}"
                    ) from None
                time.sleep(1)
        return RayJob(ident, self.address)


def plan(config: Config, call: VerbCall) -> RayPlan:
    """The job of a verb.

    Raises:
        UsageError: no ``launch.ray_address``.
    """
    address = config.launch.ray_address or os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if not address.startswith(("http://", "https://")):
        raise UsageError(
            f"launch.ray_address='{address}' must be the cluster's dashboard, as http://HEAD:8265"
        )
    words = shlex.join([sys.executable, "-m", "memo_dist", *call.words, "cluster.launcher=ray"])
    # The job server tells the cluster's own address to the shell that it starts.
    entrypoint = f"cd {shlex.quote(str(Path.cwd()))} && exec {words} {_ADDRESS}"
    environment = {name: os.environ[name] for name in CARRIED if os.environ.get(name)}
    return RayPlan(address, entrypoint, environment)


@dataclass(frozen=True)
class RayJob:
    """A job of a job server.

    Attributes:
        id: the submission's id.
        address: of the job server.
    """

    id: str
    address: str

    def __str__(self) -> str:
        return f"ray:{self.id}@{self.address}"

    @classmethod
    def parse(cls, text: str) -> RayJob:
        """The inverse of ``str``, without ``ray:``.

        Raises:
            UsageError: no address.
        """
        ident, _, address = text.partition("@")
        if not ident or not address.startswith(("http://", "https://")):
            raise UsageError(f"ray:{text}: write ray:ID@http://HEAD:8265")
        return cls(ident, address)

    def state(self) -> JobState:
        """See :class:`memo_dist.launch.jobs.Job`."""
        try:
            info = _client(self.address).get_job_info(self.id)
        except RuntimeError as error:
            raise RunError(f"{self}: {_first_line(error)}") from None
        status = str(info.status.value)
        if status in ("PENDING", "RUNNING"):
            return JobState(status, status == "PENDING", None)
        code = info.driver_exit_code
        if code is None:
            code = 0 if status == "SUCCEEDED" else 1
        return JobState(f"{status}, exit code {code}", False, code if code >= 0 else 128 - code)

    def cancel(self) -> None:
        """Stop it: SIGTERM, then SIGKILL after the cluster's RAY_JOB_STOP_WAIT_TIME_S."""
        _client(self.address).stop_job(self.id)

    def missing(self) -> str:
        """The job server's own message."""
        return str(_client(self.address).get_job_info(self.id).message)

    def follow(self, queue_seconds: float, tell: Callable[[str], None]) -> int:
        """See :func:`memo_dist.launch.jobs.follow`; tells the job's last lines at its end."""
        code = jobs.follow(self, queue_seconds, tell)
        for line in str(_client(self.address).get_job_logs(self.id)).splitlines()[-20:]:
            tell(line)
        return code


def _client(address: str) -> Any:
    """A connected client.

    Raises:
        UsageError: the address is no URL.
        RunError: nobody answers there.
    """
    parts = read_url(address)
    if parts is None or not parts.hostname:
        raise UsageError(f"launch.ray_address={address} is no URL such as http://HEAD:8265")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        # The client itself would wait for minutes.
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
        return _connect(address)
    except (OSError, RuntimeError) as error:
        raise RunError(
            f"no Ray job server at launch.ray_address={address}: {_first_line(error)}; it is part"
            " of the cluster's dashboard (pip install 'ray[default]' on the head)"
        ) from None


def _connect(address: str) -> Any:
    """A client that shows the token of this user's clusters, as Ray's own commands do."""
    held = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if held or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise RunError(
            f"the Ray cluster at launch.ray_address={address} asks for its token"
            f" ({_first_line(error).removesuffix('.')}): bring it with RAY_AUTH_TOKEN_PATH=FILE, or"
            f" in {TOKEN_FILE}; `ray get-auth-token` on the head shows it"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
