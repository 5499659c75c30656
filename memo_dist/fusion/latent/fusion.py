"""A frozen backbone writing while it attends to what memories hold in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memo_dist.fusion import ops
from memo_dist.fusion.backbone import BACKBONE_KEY, Backbone, Prompt
from memo_dist.fusion.latent.attachment import Attachment
from memo_dist.fusion.latent.connector import Connector
from memo_dist.fusion.latent.slots import MemoryText, SlotReader, Slots, join_slots
from memo_dist.fusion.logits.source import CachedModel, Reading, Source
from memo_dist.fusion.logits.state import check_room, row_seeds
from memo_dist.fusion.logits.writing import Choice, Record, stream_text
from memo_dist.fusion.types import Belief, FusedText, Request, Settings
from memo_dist.memory.loading import Voice
from memo_dist.models.batching import in_batches
from memo_dist.models.chat_format import ChatFormat

DEFAULTS = Settings()


@dataclass(frozen=True)
class MemorySlots:
    """One memory as a giver of slots.

    Attributes:
        voice: the loaded memory.
        read: its hidden states.
    """

    voice: Voice
    read: SlotReader

    def texts(self, beliefs: Sequence[Belief], drafts: bool, places: str) -> list[MemoryText]:
        """What it reads for each question: nothing where it is silent.

        Args:
            beliefs: its own, one a question.
            drafts: its own answer follows the question.
            places: ``answer``: slots from the place on where it says the answer's first token;
                ``all``: the question's too.
        """
        return [
            MemoryText() if belief.silent else self._text(belief, drafts, places)
            for belief in beliefs
        ]

    def _text(self, belief: Belief, drafts: bool, places: str) -> MemoryText:
        chat = self.voice.memory.chat
        question = chat.prompt_ids(belief.question)
        answer = chat.answer_ids(belief.draft) if drafts and belief.draft else []
        return MemoryText((*question, *answer), 0 if places == "all" else len(question) - 1)


class LatentFusion:
    """Writes answers by a backbone with a connector; backbone and memories are only read."""

    def __init__(  # noqa: PLR0913 - what a fusion is made of
        self,
        backbone: Backbone,
        prompt: Prompt,
        connector: Connector,
        voices: Sequence[Voice],
        drafts: bool = True,
        places: str = "answer",
        temperature: float = 1.0,
    ) -> None:
        """Attach the connector.

        Args:
            backbone: frozen.
            prompt: how it is asked.
            connector: fitted for it, see :class:`Attachment`.
            voices: the memories, in the order of a request's beliefs.
            drafts: they read their own answers too.
            places: of slots: ``answer`` or ``all``, see :meth:`MemorySlots.texts`.
            temperature: divides the backbone's logits where tokens are drawn.

        Raises:
            UsageError: the connector is not for this backbone.
        """
        self.chat = ChatFormat.from_tokenizer(backbone.tokenizer, BACKBONE_KEY)
        self.attachment = Attachment(backbone.model, connector)
        layers = connector.shape.memory_layers
        self._memories = [MemorySlots(voice, SlotReader(voice, layers)) for voice in voices]
        self._drafts, self._places, self._heat = drafts, places, temperature
        self._stops = self.chat.stop_ids | backbone.stop_ids()
        self._source = Source(CachedModel(backbone.model, self.chat.pad_id), prompt)
        self._backend = backbone.tokenizer.backend_tokenizer
        self._vocabulary = min(len(backbone.tokenizer), self._source.width)

    def memory_texts(self, requests: Sequence[Request]) -> list[list[MemoryText]]:
        """What each memory reads for each question; silent ones nothing."""
        return [
            memory.texts(
                [request.beliefs[place] for request in requests], self._drafts, self._places
            )
            for place, memory in enumerate(self._memories)
        ]

    def slots(self, requests: Sequence[Request]) -> Slots:
        """What the memories keep as hidden states for each question."""
        texts = self.memory_texts(requests)
        parts = [memory.read(mine) for memory, mine in zip(self._memories, texts, strict=True)]
        return join_slots(parts)

    def generate(
        self, requests: Sequence[Request], settings: Settings = DEFAULTS, batch_size: int = 16
    ) -> list[FusedText]:
        """Answer every request, in the given order.

        Where every memory is silent the text is the backbone's own, to the token.
        """
        lengths = [len(request.question) for request in requests]
        return in_batches(
            lengths, batch_size, lambda batch: self._write([requests[i] for i in batch], settings)
        )

    def alone(self, request: Request, settings: Settings = DEFAULTS) -> FusedText:
        """What the backbone writes when no memory has a say."""
        (text,) = self.generate([request.silenced()], settings)
        return text

    def stream(self, request: Request, settings: Settings = DEFAULTS) -> Iterator[str]:
        """Answer one request piece by piece; the pieces joined are the text of `generate`."""
        yield from stream_text(self._steps([request], settings, Record(1)), self._backend)

    def _write(self, requests: Sequence[Request], settings: Settings) -> list[FusedText]:
        started = time.perf_counter()
        record = Record(len(requests))
        for _ in self._steps(requests, settings, record):
            pass
        seconds = (time.perf_counter() - started) / len(requests)
        return [record.text(row, self.chat, self._stops, seconds) for row in range(len(requests))]

    def _steps(
        self, requests: Sequence[Request], settings: Settings, record: Record
    ) -> Iterator[list[int]]:
        """Write; yields the first row's new tokens of each step."""
        limit = settings.max_new_tokens
        for request in requests:
            check_room(self._source, request.question, limit, "the backbone")
        reading = Reading([self._source], window=False)
        with torch.inference_mode():
            slots = self.slots(requests)
            with self.attachment.reading(slots):
                questions = [[request.question for request in requests]]
                logits = reading.start(questions, [[]] * len(requests))[0][:, -1]
                for step in range(limit):
                    choice = self._choose(logits, requests, settings, step)
                    record.add(choice)
                    yield record.fresh(self._stops)
                    if record.done(self._stops) or step + 1 == limit:
                        break
                    logits = reading.feed(choice.tokens[:, None])[0][:, -1]
        slots_read = slots.present.sum(dim=1).tolist()
        prompts = [len(self._source.prompt(request.question)) for request in requests]
        read = [prompt + more for prompt, more in zip(prompts, slots_read, strict=True)]
        record.close(read, reading.forwards)

    def _choose(
        self, logits: Tensor, requests: Sequence[Request], settings: Settings, step: int
    ) -> Choice:
        alone = torch.zeros(len(logits), 1, device=logits.device)
        if not settings.sample:
            best = ops.mix_logits_argmax([logits], alone, vocabulary=self._vocabulary)
            return Choice(best.tokens, best.log_probs, alone)
        questions = [request.question for request in requests]
        seeds = row_seeds(settings.seed, questions, [step] * len(logits)).to(logits.device)
        drawn = ops.mix_logits_sample(
            [logits], alone, seeds, self._heat, vocabulary=self._vocabulary
        )
        return Choice(drawn.tokens, drawn.log_probs, alone)
