"""The run's log file, and libraries' own chatter that would bury the run's lines."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memo_dist import process
from memo_dist.io.terminal import visible

LOG_FILE = "memo-dist.log"
_logger = logging.getLogger("memo_dist")


class _VisibleFormatter(logging.Formatter):
    """A log is read in a terminal, and quotes documents and names."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with what acts on a terminal written out."""
        return visible(super().format(record))


class _QuietHandler(logging.FileHandler):
    """On a full disk the run's own error is the message; logging's would bury it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append what the package logs to ``folder/memo-dist.log``, and how the block failed.

    Warnings are shown as well.
    """
    handler = _QuietHandler(folder / LOG_FILE, encoding="utf-8")
    handler.setFormatter(_VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    shown = logging.StreamHandler()  # what a person must know is not only in a file
    shown.setLevel(logging.WARNING)
    shown.addFilter(lambda record: not record.exc_info)
    shown.setFormatter(_VisibleFormatter("memo-dist: %(message)s"))
    before = _logger.level
    _logger.addHandler(handler)
    _logger.addHandler(shown)
    _logger.setLevel(logging.INFO)
    try:
        yield
    except Exception:
        _logger.exception("the launch ended with an error")
        raise
    finally:
        _logger.removeHandler(handler)
        _logger.removeHandler(shown)
        _logger.setLevel(before)
        with suppress(OSError):
            handler.close()


def quiet_libraries() -> None:
    """Silence progress bars and info messages of transformers, DeepSpeed and Ray.

    Their warnings of level ERROR stay; the run's own progress is in memo_dist.observability.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    for name, value in process.accelerator_environment(torch.cuda.is_available()).items():
        os.environ.setdefault(name, value)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("DeepSpeed", "ray", "ray.train", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
