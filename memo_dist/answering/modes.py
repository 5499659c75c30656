"""The table of modes, and how each is opened.

A new mode is a subclass of :class:`Answerer` and a row of :data:`MODES`, both here; ``ask``,
``evaluate`` and all that serves answers take their modes from the table. Models are imported when a
mode is opened: a command line that only names modes does not wait for torch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from memo_dist.answering.answerer import Answered, Answerer, Options
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError, suggest
from memo_dist.io import permissions
from memo_dist.io.generations import held
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import FILE_NAME

if TYPE_CHECKING:
    from memo_dist.fusion.types import FusedText
    from memo_dist.memory.bank import Bank
    from memo_dist.protocol.session import Outcome

STREAMED_QUESTIONS = 1024
"""Questions a call where shards are loaded anew for each: their answers are written together."""
EXECUTIVE_IDENTITY = (
    "kind",
    "model",
    "structured",
    "attempts",
    "max_reply_tokens",
    "temperature",
)
"""Keys of ``executive`` that can change an answer."""


class DirectAnswerer(Answerer):
    """The memory alone."""

    nearest = False

    def __init__(self, run: RunFolder, config: Config, options: Options) -> None:
        super().__init__()
        self._bank = _bank(run, config, options)
        self._batch_size = options.batch_size
        self.decided_by = (config.memory.max_answer_tokens,)
        self.at_once = STREAMED_QUESTIONS if self._bank.streams else 0

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """See :meth:`Answerer.answer`."""
        answers = self._bank.answer(questions, self._batch_size, self.nearest)
        return [Answered(answer) for answer in answers]


class HybridAnswerer(DirectAnswerer):
    """The memory asked the trained question that a search index finds nearest."""

    nearest = True

    def __init__(self, run: RunFolder, config: Config, options: Options) -> None:
        super().__init__(run, config, options)
        if any(shard.sources.empty for shard in self._bank.shards):
            raise UsageError(
                f"mode 'hybrid' looks up trained questions, and '{run.trained_reflections}' does"
                " not hold those of every shard; use --mode direct, or bring them back"
            )


class LogitsAnswerer(Answerer):
    """A frozen backbone and the memory mix their next-token distributions."""

    def __init__(self, run: RunFolder, config: Config, options: Options) -> None:
        from memo_dist.fusion.logits.answering import FusedBank, check_mixes

        super().__init__()
        check_mixes(run)
        self._fused = FusedBank.load(run, config, _bank(run, config, options))
        self._batch_size = options.batch_size
        self.decided_by = (self._fused.identity,)

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """See :meth:`Answerer.answer`."""
        written = self._fused.answer(questions, self._batch_size)
        return [Answered(answer, self._details(text)) for answer, text in written]

    def stream(self, question: str) -> Iterator[str]:
        """See :meth:`Answerer.stream`."""
        return self._fused.stream(question)

    @staticmethod
    def _details(text: FusedText) -> dict[str, Any]:
        share = sum(text.memory_weights) / max(len(text.memory_weights), 1)
        details = {"memory_weight": round(share, 4), "backbone_forwards": text.forwards}
        return details | ({"lost": round(text.lost, 4)} if text.lost else {})


class LatentAnswerer(Answerer):
    """A frozen backbone that attends to the memory's hidden states."""

    def __init__(self, run: RunFolder, config: Config, options: Options) -> None:
        from memo_dist.fusion.latent.answering import LatentBank

        super().__init__()
        self._fused = LatentBank.load(run, config, _bank(run, config, options))
        self._batch_size = options.batch_size
        self.decided_by = (self._fused.identity,)

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """See :meth:`Answerer.answer`."""
        written = self._fused.answer(questions, self._batch_size)
        return [Answered(answer, {"backbone_forwards": text.forwards}) for answer, text in written]

    def stream(self, question: str) -> Iterator[str]:
        """See :meth:`Answerer.stream`."""
        return self._fused.stream(question)


class ProtocolAnswerer(Answerer):
    """An executive that asks the memory turn by turn."""

    def __init__(self, run: RunFolder, config: Config, options: Options, variant: str = "") -> None:
        """``variant`` stands for ``protocol.variant``; "": as configured."""
        from memo_dist.models.identity import model_stamp
        from memo_dist.protocol.requests import prompts_version
        from memo_dist.protocol.session import ProtocolSession

        super().__init__()
        protocol = replace(config.protocol, variant=variant or config.protocol.variant)
        self.decided_by = (
            prompts_version(),
            asdict(protocol),
            [getattr(config.executive, name) for name in EXECUTIVE_IDENTITY],
            config.run.seed,
            config.memory.max_answer_tokens,
            model_stamp(config.executive.model) if config.executive.kind == "transformers" else "",
        )
        memory = partial(_bank(run, config, options).answer, batch_size=options.batch_size)
        self._folder = options.transcripts or run.ask(_new_name())
        permissions.make_folder(self._folder.parent, config.run.group_readable)
        permissions.make_folder(self._folder, config.run.group_readable)
        self._session = self._held.enter_context(
            ProtocolSession(
                replace(config, protocol=protocol), memory, self._folder, options.should_stop
            )
        )

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """See :meth:`Answerer.answer`."""
        outcomes = self._session.answer(questions)
        return [Answered(outcome.answer, self._details(outcome)) for outcome in outcomes]

    def _details(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "ended": outcome.ended,
            "limit": outcome.limit,
            "executive_calls": outcome.calls,
            "failed_calls": outcome.failed,
            "memory_questions": outcome.questions,
            "tokens": outcome.answer.tokens,
            "executive_tokens": list(outcome.executive_tokens),
            "transcript": str(self._folder),
        }


@dataclass(frozen=True, slots=True)
class Mode:
    """A row of the table.

    Attributes:
        open: builds the answerer.
        streams: its text can be had piece by piece.
        executive: it needs one (``executive.kind``).
        inside: it reads logits or hidden states of the memory, so the models are in its process.
    """

    open: Callable[[RunFolder, Config, Options], Answerer]
    streams: bool = False
    executive: bool = False
    inside: bool = False


def _protocol(variant: str = "") -> Mode:
    return Mode(partial(ProtocolAnswerer, variant=variant), executive=True)


MODES = {
    "direct": Mode(DirectAnswerer),
    "hybrid": Mode(HybridAnswerer),
    "logits": Mode(LogitsAnswerer, streams=True, inside=True),
    "latent": Mode(LatentAnswerer, streams=True, inside=True),
    "protocol": _protocol(),
    "protocol-full": _protocol("full"),
    "protocol-one-turn": _protocol("one_turn"),
    "protocol-multi-turn": _protocol("multi_turn"),
}
"""Every mode by name."""


def check_mode(mode: str, config: Config) -> None:
    """Refuse a mode that cannot be opened, before anything is loaded.

    Raises:
        UsageError: there is no such mode, or the executive that it needs is not configured.
    """
    if mode not in MODES:
        raise UsageError(
            f"unknown mode '{mode}'{suggest(mode, MODES)}; modes are {', '.join(MODES)}"
        )
    if MODES[mode].executive:
        from memo_dist.protocol.session import check_executive

        check_executive(config)


def open_answerer(
    run: RunFolder, config: Config, mode: str, options: Options | None = None
) -> Answerer:
    """Open a way of answering questions from a run; a context manager.

    Args:
        run: its bank answers.
        config: ``memory``, and of the mode ``fusion``, ``executive``, ``protocol``.
        mode: of :data:`MODES`.
        options: batch size, a loaded bank, the place of transcripts; None: the defaults.

    Raises:
        UsageError: see :func:`check_mode`; or bank, backbone, gate or connector cannot be loaded.
        RunError: the base of the bank's adapters is another one.
    """
    check_mode(mode, config)
    run = run.pin()
    with ExitStack() as stack:
        if (run.memory / FILE_NAME).is_file():  # a missing one is refused where it is loaded
            stack.enter_context(held(run.memory, FILE_NAME))
        answerer = MODES[mode].open(run, config, options or Options())
        answerer.holds(stack.pop_all())
    return answerer


def _bank(run: RunFolder, config: Config, options: Options) -> Bank:
    from memo_dist.memory.bank import Bank

    return options.bank or Bank.of_run(run, config)


def _new_name() -> str:
    """Of a new folder of transcripts: the time, and digits that make it the only one."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
