"""Settings that every test and every process started by a test shares; set before torch loads."""

import os
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import sampling

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray starts its workers with a niceness of 15: on a busy machine they would wait for everything.
# https://github.com/ray-project/ray/pull/24928
os.environ.setdefault("RAY_worker_niceness", "0")
# What a user has named for runs of their own is not what tests name for theirs.
os.environ["XDG_STATE_HOME"] = str(Path(tempfile.gettempdir()) / f"memo-dist-tests-{os.getuid()}")
# A user's own answers must not depend on where the tests run.
os.environ.pop("MEMO_DIST_TRACEBACK", None)

LONGEST = (
    "test_slurm", "test_update", "test_training_bank", "test_chain", "test_recorded",
    "test_fusion_latent", "test_scaling_cli",
    "test_synthesis_engine", "test_scaling_reflections", "test_training_ranks",
    "test_synthesis_revision", "test_forget", "test_api", "test_stages", "test_answering",
    "test_serve", "test_serve_buffer", "test_serve_security",
)  # fmt: skip
"""Files that take a minute and more. They begin first: else the last of them would end alone."""


LONG = bool(os.environ.get("MEMO_TESTS_LONG"))
"""Whether all points and the slow tests run too (``tests/run.sh --long``; docs/testing.md)."""


def pytest_collection_modifyitems(config, items):
    """Long files first, the order is otherwise as it was; without what is kept for long runs."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    if not LONG:
        left_out = _left_out(items)
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def _left_out(items):
    """Tests marked ``long``, and of those marked ``sampled`` all but a covering of the points."""
    left_out, grids = set(), defaultdict(list)
    for item in items:
        if item.get_closest_marker("long"):
            left_out.add(item)
        elif item.get_closest_marker("sampled"):
            grids[item.path, item.originalname].append(item)
    for grid in grids.values():
        left_out.update(item for item in grid if not _possible(item))
        possible = [item for item in grid if _possible(item)]
        kept = sampling.covering([item.callspec.params for item in possible])
        left_out.update(item for n, item in enumerate(possible) if n not in set(kept))
    return left_out


def _possible(item):
    """CUDA kernels, emulated or not, have no float64: these points would only be skipped."""
    values = {str(value) for value in item.callspec.params.values()}
    return not ("torch.float64" in values and values & {"emulation", "cuda"})


@pytest.fixture(autouse=True)
def _environment_as_before():
    """A process that trains takes the variables of a rank: the next test must not find them."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value and name != "PYTEST_CURRENT_TEST":
            os.environ[name] = value
