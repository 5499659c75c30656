"""What a shard's training gets beside its reflections: replay, soft labels, people's questions.

All of it is made once, by the process that prepares the training, before any rank starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from memo_dist.config import origin
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import iter_chunks, iter_documents
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.io.user_rows import user_rows
from memo_dist.models.base import SCRATCH_NAME, find_base, resolve_base
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel, hash_vocabulary
from memo_dist.synthesis.types import Reflection
from memo_dist.training.examples import Examples
from memo_dist.training.recall import PEOPLES
from memo_dist.training.replay import from_text, replayed_tokens, written_by_base
from memo_dist.training.teacher import check_vocabulary, lessons, make_soft_labels, passages_of

SOFT = "soft.safetensors"
BLOCKS = "soft"


@dataclass(frozen=True)
class Enriched:
    """A shard's training material.

    Attributes:
        examples: of reflections, then of replay.
        replayed: number of the latter.
        soft: file of a teacher's labels; None: none.
    """

    examples: Examples
    replayed: int
    soft: Path | None

    @property
    def hashes(self) -> list[str]:
        """What identifies the soft labels; the examples have a file of their own."""
        return [] if self.soft is None else [hash_file(self.soft)]


def check_teacher(config: Config) -> None:
    """Refuse a teacher that cannot label this memory's answers, before anything is spent.

    Raises:
        UsageError: it is not there, or it has another tokenizer than ``memory.base``.
    """
    train, base = config.train, config.memory.base
    if not train.teacher:
        return
    if base == SCRATCH_NAME:
        raise UsageError(
            f"train.teacher={train.teacher} needs the memory's own tokenizer, and"
            f" memory.base={SCRATCH_NAME} makes a new one; name another memory.base, or write"
            " train.teacher=''"
        )
    vocabulary = hash_vocabulary(find_base(train.teacher, key="train.teacher"))
    folder = find_base(base)
    check_vocabulary(
        train.teacher, vocabulary, BaseModel(base, folder, "", hash_vocabulary(folder), "")
    )


def enriched(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    shard: int,
    base: BaseModel,
    begins: tuple[Path, str],
    examples: Examples,
    reflections: Sequence[Reflection],
) -> Enriched:
    """Add to a shard's examples what the ``train`` group switches on.

    Args:
        run: the run.
        config: its configuration.
        shard: which shard.
        base: of the memories.
        begins: folder and weights hash of the model that the training begins with.
        examples: of the shard, one for each of ``reflections``.
        reflections: what is trained.

    Raises:
        UsageError: a file cannot be read, or the teacher cannot label.
        StoppedError, InterruptedRunError: a stop was requested.
    """
    folder, train = run.train(shard), config.train
    files = ("replay_text", "held_out_questions")
    origin.check({f"train.{name}": getattr(train, name) for name in files if getattr(train, name)})
    if train.held_out_questions:
        rows = _questions(Path(train.held_out_questions))
        atomic.write_jsonl(folder / PEOPLES, (row.to_json() for row in rows))
    soft = folder / SOFT if train.teacher else None
    if soft is not None:
        _label(run, config, base, examples, reflections, soft)
    if not train.replay:
        return Enriched(examples, 0, soft)
    replay = _replay(config, base, begins, examples, folder)
    return Enriched(examples.followed_by(replay), len(replay), soft)


def _replay(
    config: Config, base: BaseModel, begins: tuple[Path, str], examples: Examples, folder: Path
) -> Examples:
    train, seed = config.train, config.run.seed
    counted = examples.counted(range(len(examples)), train.question_weight)
    tokens = replayed_tokens(counted, train.replay)
    longest = train.micro_batch_tokens
    if train.replay_text:
        tokenizer = AutoTokenizer.from_pretrained(base.path)
        return from_text(Path(train.replay_text).expanduser(), tokens, longest, tokenizer, seed)
    return written_by_base(*begins, tokens, longest, seed, folder)


def _label(  # noqa: PLR0913
    run: RunFolder,
    config: Config,
    base: BaseModel,
    examples: Examples,
    reflections: Sequence[Reflection],
    path: Path,
) -> None:
    train = config.train
    teacher = resolve_base(train.teacher, key="train.teacher")
    check_vocabulary(train.teacher, teacher.vocabulary_hash, base)
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(base.path))
    passages = passages_of(iter_documents(run.corpus), iter_chunks(run.corpus))
    given = lessons(reflections, examples.answers(), passages, chat)
    make_soft_labels(given, teacher, train.teacher_top, path.with_name(BLOCKS)).save(path)


def _questions(path: Path) -> list[Reflection]:
    """People's questions that have an answer, as reflections of no document.

    Raises:
        UsageError: the file cannot be read, or no line has a question and an answer.
    """
    try:
        rows = [row for _, row in user_rows(path.expanduser(), "the questions")]
        pairs = [(row["question"], row["answer"]) for row in rows if row.get("answerable", True)]
    except (UsageError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(
            f"train.held_out_questions={path} cannot be read ({reason}): each line is an object"
            " with 'question' and 'answer'"
        ) from error
    if not pairs:
        raise UsageError(f"train.held_out_questions={path} holds no question with an answer")
    return [
        Reflection(str(question), str(answer), "direct", (), (), 0, "people", "1", "")
        for question, answer in pairs
    ]
