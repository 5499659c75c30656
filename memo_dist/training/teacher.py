"""Soft labels: what a teacher that has the passage before it would answer, token by token.

Prompt distillation (arXiv 2412.14964), Cartridges (arXiv 2506.06266) and deep context distillation
(arXiv 2503.08727) train a model that lacks a passage to give the distributions of one that reads
it. The teacher gets the passage, the question and the gold answer, and its ``train.teacher_top``
most probable tokens at each token of the answer are kept. Passage and questions are one sequence:
the passage first, then each question with its answer, which sees the passage and itself only.

Labels are kept in blocks, ``soft/<hash>.safetensors``, named by teacher and content: a making
that was ended goes on with the next block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memo_dist.cluster.stop import STOP
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import UsageError
from memo_dist.io.hashing import hash_value
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.identity import BaseModel
from memo_dist.models.loading import load_language_model, release_gpu
from memo_dist.observability.progress import progress
from memo_dist.synthesis.types import Reflection
from memo_dist.training.extras import SoftLabels

VERSION = "1"
"""Raise it with every change of what the teacher is given: labels of an older one are made anew."""

_BLOCK = 256
_BRANCH_TOKENS = 1024
_TOLERANCE = 0.01
_HALF_TOLERANCE = 0.2
"""Of the root mean square between logits of a lesson read alone and beside another, at the median
token, in standard deviations of its logits; in half precision two attentions round differently."""
_KEY = "train.teacher"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One reflection as the teacher gets it.

    Attributes:
        id: the reflection's.
        prompt: token ids of passage and question, up to where the answer begins.
        answer: token ids of the gold answer and its end.
    """

    id: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def check_vocabulary(teacher: str, vocabulary: str, base: BaseModel) -> None:
    """Refuse a teacher whose tokens are not the memory's.

    Args:
        teacher: value of ``train.teacher``.
        vocabulary: :func:`memo_dist.models.identity.hash_vocabulary` of its folder.
        base: of the memory.

    Raises:
        UsageError: the token -> id maps differ.
    """
    if vocabulary != base.vocabulary_hash:
        raise UsageError(
            f"{_KEY}={teacher} has another tokenizer (vocabulary {vocabulary[:16]}) than"
            f" memory.base={base.name} ({base.vocabulary_hash[:16]}): its probabilities are of"
            " other tokens. Choose a teacher of the same family, or write train.teacher=''"
        )


def lessons(
    reflections: Sequence[Reflection],
    answers: Sequence[np.ndarray],
    passages: dict[str, str],
    chat: ChatFormat,
) -> list[Lesson | None]:
    """What the teacher gets for each reflection; None where there is no passage to read.

    Args:
        reflections: as they are trained.
        answers: the trained token ids of each one's answer.
        passages: text of each chunk, by its id.
        chat: the format of memory and teacher.
    """
    made: list[Lesson | None] = []
    for reflection, answer in zip(reflections, answers, strict=True):
        texts = [passages[name] for name in reflection.chunks if name in passages]
        if reflection.kind == "abstain" or not texts:
            made.append(None)
            continue
        prompt = chat.prompt_ids("\n\n".join([*texts, reflection.question]))
        made.append(Lesson(reflection.id, tuple(prompt), tuple(int(i) for i in answer)))
    return made


def passages_of(documents: Iterable[Document], chunks: Iterable[Chunk]) -> dict[str, str]:
    """Each chunk's text below its document's title, by the chunk's id."""
    titles = {document.id: document.title for document in documents}
    return {
        chunk.id: f"{titles.get(chunk.document, chunk.document)}\n{chunk.text}" for chunk in chunks
    }


class Teacher:
    """A causal language model that labels answers, on the GPU where there is one.

    Args:
        model: as transformers loads it, in evaluation mode.
        vocabulary: number of tokens that memory and teacher share.
        top: most probable tokens that are kept.
    """

    def __init__(self, model: Any, vocabulary: int, top: int) -> None:
        self._model, self._vocabulary = model, vocabulary
        self._top = min(top, vocabulary)
        self._context = int(getattr(model.config, "max_position_embeddings", 0)) or 1 << 30
        self._joins: bool | None = None

    @classmethod
    def load(cls, found: BaseModel, top: int) -> Teacher:
        """Load a Hugging Face folder.

        Args:
            found: the model that ``train.teacher`` names.
            top: most probable tokens that are kept.

        Raises:
            UsageError: the folder does not load.
        """
        failure = f"{_KEY}={found.name} cannot be loaded"
        model, tokenizer = load_language_model(found.path, failure, f"choose another {_KEY}")
        return cls(model, len(tokenizer), top)

    def labels(self, given: Sequence[Lesson]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(int32 [answer tokens, k] tokens, fp32 [answer tokens, k] log-probabilities) of each.

        Lessons after one another with the same passage are read together. Of a lesson that is
        longer than the teacher's context the beginning is left out.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for group in self._groups(given):
            found += self._read(group)
        return found

    def _groups(self, given: Sequence[Lesson]) -> Iterator[list[Lesson]]:
        """Neighbours that share most of their prompts, while they fit into a sequence."""
        group: list[Lesson] = []
        shared: tuple[int, ...] = ()
        for lesson in map(self._fitting, given):
            common = _beginning([shared, lesson.prompt]) if group else lesson.prompt
            own = sum(len(one.prompt) - len(common) + len(one.answer) for one in [*group, lesson])
            if group and (2 * len(common) < len(lesson.prompt) or own > _BRANCH_TOKENS):
                yield group
                group, common = [], lesson.prompt
            group.append(lesson)
            shared = common
        if group:
            yield group

    def _fitting(self, lesson: Lesson) -> Lesson:
        room = self._context - len(lesson.answer)
        return Lesson(lesson.id, lesson.prompt[-room:], lesson.answer)

    def _read(self, group: list[Lesson]) -> list[tuple[np.ndarray, np.ndarray]]:
        if len(group) > 1 and self._joins is None:
            pair = group[:2]
            single, joint = self._logits(pair[1:]), self._logits(pair)[-len(pair[1].answer) :]
            self._joins = self._agree(single, joint)
        parts = [group] if self._joins else [[lesson] for lesson in group]
        chances = torch.cat([self._logits(part) for part in parts]).log_softmax(1)
        best = chances.topk(self._top, 1)
        tokens, log_probs = best.indices.int().cpu().numpy(), best.values.cpu().numpy()
        ends = np.cumsum([len(lesson.answer) for lesson in group])[:-1]
        return list(zip(np.split(tokens, ends), np.split(log_probs, ends), strict=True))

    def _agree(self, single: torch.Tensor, joint: torch.Tensor) -> bool:
        """Whether logits of answers read together are those of one read alone."""
        error = (joint - single).square().mean(1).sqrt() / single.std(1).clamp_min(1e-9)
        half = self._model.dtype != torch.float32
        agree = bool(error.median() <= (_HALF_TOLERANCE if half else _TOLERANCE))
        if not agree:
            _log.warning("%s mixes lessons that share a passage: each reads its own", _KEY)
        return agree

    @torch.inference_mode()
    def _logits(self, group: list[Lesson]) -> torch.Tensor:
        """fp32 [answer tokens of the group, vocabulary], on the model's device."""
        shared = _shared_tokens(group)
        ids, places, owners = list(group[0].prompt[:shared]), list(range(shared)), [0] * shared
        keep: list[int] = []
        for owner, lesson in enumerate(group, 1):
            branch = [*lesson.prompt[shared:], *lesson.answer]
            first = len(ids) + len(lesson.prompt) - shared - 1
            keep += range(first, first + len(lesson.answer))
            ids += branch
            places += range(shared, shared + len(branch))
            owners += [owner] * len(branch)
        device = self._model.device
        row: dict[str, Any] = {"use_cache": False}
        if shared:
            whose = torch.tensor(owners, device=device)
            seen = (whose == 0) | (whose[:, None] == whose)
            row["attention_mask"] = seen.tril()[None, None]
        output = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([places], device=device),
            logits_to_keep=torch.tensor(keep, device=device),
            **row,
        )
        logits: torch.Tensor = output.logits[0, :, : self._vocabulary].float()
        return logits


def _beginning(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all of them begin with."""
    columns = zip(*prompts, strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len({*column}) == 1, columns))


def _shared_tokens(group: Sequence[Lesson]) -> int:
    """Tokens that are read once for a group; each keeps one before its answer."""
    if len(group) == 1:
        return 0
    prompts = [lesson.prompt for lesson in group]
    return min(len(_beginning(prompts)), min(map(len, prompts)) - 1)


def make_soft_labels(
    given: Sequence[Lesson | None], teacher: BaseModel, top: int, folder: Path
) -> SoftLabels:
    """The labels of a shard's examples: those that are kept, and the others by the teacher.

    Args:
        given: a lesson for each example, None for those without labels.
        teacher: the model that labels.
        top: most probable tokens that are kept.
        folder: of the blocks; those of other lessons are removed at the end.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested; finished blocks are kept.
        UsageError: the teacher does not load, or no example has a passage.
    """
    todo = [lesson for lesson in given if lesson is not None]
    if not todo:
        raise UsageError(
            f"{_KEY}={teacher.name} has nothing to read: no reflection names a passage of the"
            " corpus; write train.teacher=''"
        )
    todo.sort(key=lambda lesson: (lesson.prompt, lesson.id))
    model: Teacher | None = None
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    used = set()
    blocks = [todo[start : start + _BLOCK] for start in range(0, len(todo), _BLOCK)]
    with progress(len(blocks), "soft labels", done=0, unit="blocks") as bar:
        for block in blocks:
            path = folder / f"{_block_name(block, teacher.weights_hash, top)}.safetensors"
            used.add(path)
            if not path.exists():
                if STOP():
                    raise STOP.error("finished soft labels are kept; run the command again")
                model = model or Teacher.load(teacher, top)
                _joined(model.labels(block)).save(path)
            found |= _by_id(block, SoftLabels.load(path))
            bar.advance(1)
    del model
    release_gpu()
    for path in set(folder.glob("*.safetensors")) - used:
        path.unlink()
    none = np.zeros((0, next(iter(found.values()))[0].shape[1]))
    empty = none.astype(np.int32), none.astype(np.float32)
    return _joined([empty if lesson is None else found[lesson.id] for lesson in given])


def _block_name(block: Sequence[Lesson], weights: str, top: int) -> str:
    content = [[lesson.id, list(lesson.prompt), list(lesson.answer)] for lesson in block]
    return hash_value([VERSION, weights, top, content])[:32]


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> SoftLabels:
    starts = np.cumsum([0, *(len(tokens) for tokens, _ in parts)]).astype(np.int64)
    tokens, log_probs = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return SoftLabels(starts, tokens.astype(np.int32), log_probs.astype(np.float32))


def _by_id(block: Sequence[Lesson], labels: SoftLabels) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    spans = zip(labels.starts[:-1], labels.starts[1:], strict=True)
    return {
        lesson.id: (labels.tokens[start:stop], labels.log_probs[start:stop])
        for lesson, (start, stop) in zip(block, spans, strict=True)
    }
