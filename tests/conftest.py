"""Settings that every test and every process started by a test shares; set before torch loads."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray starts its workers with a niceness of 15: on a busy machine they would wait for everything.
# https://github.com/ray-project/ray/pull/24928
os.environ.setdefault("RAY_worker_niceness", "0")
# A user's own answers must not depend on where the tests run.
os.environ.pop("MEMO_DIST_TRACEBACK", None)

LONGEST = (
    "test_slurm", "test_training_bank", "test_chain", "test_fusion_latent", "test_scaling_cli",
    "test_synthesis_engine", "test_scaling_reflections", "test_training_ranks",
)  # fmt: skip
"""Files that take a minute and more. They begin first: else the last of them would end alone."""


def pytest_collection_modifyitems(items):
    """Long files first; the order is otherwise as it was."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
