"""What every API of the server does: ask, write, delete, list; with rights and scopes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from memo_dist.answering import Answered
from memo_dist.change.staying import BUFFER
from memo_dist.config.schema import Config
from memo_dist.corpus.manifest import DOCUMENTS, iter_documents
from memo_dist.errors import RunError, UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.tombstones import load_tombstones
from memo_dist.serve.batching import Batcher
from memo_dist.serve.buffer import PendingBuffer
from memo_dist.serve.consolidate import Consolidator
from memo_dist.serve.engine import Answering, Engine
from memo_dist.serve.errors import ApiError, invalid, not_found
from memo_dist.serve.hidden import Hides, comes_from
from memo_dist.serve.keys import Caller, Scope
from memo_dist.serve.merging import Passage, Reply, merge, passages
from memo_dist.serve.messages import shown
from memo_dist.serve.metrics import Metrics
from memo_dist.serve.records import PENDING, TRAINED, Change, Event, Stored
from memo_dist.serve.scopes import SILENCE, ScopeMemories, most_confident

logger = logging.getLogger(__name__)

PAGE = 100
"""Documents and events of one page."""
_HITS = 5
_TRIES = 3
"""Of a question whose answer came from a document that was deleted or replaced meanwhile."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_TITLE = 300


class Service:
    """The memory of one run, its buffer, and what brings one into the other."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        """Open the buffer; :meth:`start` loads the memory.

        Raises:
            UsageError: a mode cannot be opened.
            RunError: the buffer cannot be opened.
        """
        self.run, self.config = run, config
        self.bank_name = run.root.resolve().name
        self.metrics = Metrics()
        self.buffer = PendingBuffer(run.root / BUFFER, config.serve.max_pending)
        self.engine = _open_engine(run, config, self.buffer.hidden)
        self.scopes = ScopeMemories(run, config, self.buffer.hidden)
        self._consolidator = Consolidator(run, config, self.buffer, self.engine, self.scopes)
        self._batchers: dict[str, Batcher[str]] = {}
        settings = config.serve
        self._scoped = Batcher(
            self.scopes.answer, settings.batch_size, settings.batch_wait_ms / 1000
        )
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether it answers and is not being stopped."""
        return self.engine.number >= 0 and not self.draining

    async def start(self) -> None:
        """Load the memory and begin to answer.

        Raises:
            UsageError, RunError: it cannot be loaded.
        """
        await asyncio.to_thread(self.engine.refresh)
        settings = self.config.serve
        for mode in self.engine.modes:
            self._batchers[mode] = Batcher(
                partial(self.engine.answer, mode),
                settings.batch_size,
                settings.batch_wait_ms / 1000,
                self.metrics.batches.labels(mode).observe,
                self.engine.at_once,
            )
        watch = self.metrics.watch
        watch("generation", "Generation that answers.", lambda: self.engine.number)
        watch("pending_documents", "Documents in the buffer.", self.buffer.texts)
        watch("loaded_scopes", "Scopes whose weights are loaded.", lambda: self.scopes.loaded)
        watch("scope_loads", "Times that a scope's weights were loaded.", lambda: self.scopes.loads)
        watch("queued_questions", "Questions in no batch yet.",
              lambda: sum(one.waiting for one in self._batchers.values()))  # fmt: skip
        self._consolidator.start()

    async def stop(self) -> None:
        """End what runs beside; requests have ended before."""
        self.draining = True
        await asyncio.to_thread(self._consolidator.stop)
        for batcher in self._batchers.values():
            await batcher.close()
        await self._scoped.close()
        self.scopes.close()
        self.engine.close()
        self.buffer.close()

    # -- answers -----------------------------------------------------------------------------------

    async def ask(self, caller: Caller, question: str, mode: str, scope: Scope) -> Reply:
        """Answer one question.

        Args:
            caller: needs the right ``read``.
            question: what is asked.
            mode: of ``serve.modes``; "": the first one.
            scope: whose pending texts and weights answer too, beside the shared ones.

        Raises:
            ApiError: a wrong question, mode or scope; 503 and 504.
        """
        caller.need("read")
        if scope:
            caller.need_scope(scope)
        question = self._check_question(question)
        if self.config.serve.log_questions:
            logger.info("question of %s: %s", caller.name, question)
        mode = mode or self.engine.modes[0]
        if mode not in self._batchers:
            raise invalid(f"this server answers in the modes {', '.join(self.engine.modes)}",
                          "mode")  # fmt: skip
        try:
            async with asyncio.timeout(self.config.serve.answer_seconds):
                answered, pending = await self._heard(question, mode, scope)
        except TimeoutError:
            raise ApiError(504, "timeout", "no answer within serve.answer_seconds") from None
        except UsageError as error:
            raise invalid(shown(error, self.run.root), "question") from error
        except RunError as error:
            raise ApiError(503, "unavailable", "the memory cannot answer now",
                           retry_after=5) from error  # fmt: skip
        reply = merge(mode, answered, pending)
        self.metrics.answers.labels(mode, reply.source).inc()
        return reply

    async def _heard(
        self, question: str, mode: str, scope: Scope
    ) -> tuple[Answered, tuple[Passage, ...]]:
        """What memory and buffer say, without documents that were deleted or replaced meanwhile."""
        for _ in range(_TRIES):
            mark = await asyncio.to_thread(self.buffer.mark)
            known = {*self.engine.known().documents}
            pending, shared, scoped = await asyncio.gather(
                asyncio.to_thread(self._passages, question, scope),
                self._batchers[mode].ask(question),
                self._of_scopes(scope, question),
            )
            changed = await asyncio.to_thread(self.buffer.changed_since, mark)
            known |= self.engine.known().documents.keys()  # of the next generation too
            kept = tuple(one for one in pending if one.document not in changed)
            heard = [
                SILENCE if comes_from(shared, changed & known) else shared,
                *(SILENCE if comes_from(one, changed) else one for one in scoped),
            ]
            if kept == pending and heard == [shared, *scoped]:
                break
        return most_confident(heard[0], heard[1:]), kept

    async def _of_scopes(self, scope: Scope, question: str) -> list[Answered]:
        """What the weights of the scopes say that have all entities of ``scope``."""
        if not scope:
            return []
        most = self.config.serve.scopes_asked
        scopes = await asyncio.to_thread(self.buffer.scopes_within, scope, most)
        asked = [one for one in scopes if self.scopes.trained(one)]
        return await asyncio.gather(*(self._scoped.ask((one, question)) for one in asked))

    async def search_pending(self, caller: Caller, question: str, scope: Scope) -> list[Passage]:
        """What the buffer holds about a question, within a scope alone.

        Raises:
            ApiError: a wrong question or scope.
        """
        caller.need("read")
        if scope:
            caller.need_scope(scope)
        question = self._check_question(question)
        return list(await asyncio.to_thread(self._passages, question, scope, False))

    def _passages(self, question: str, scope: Scope, shared: bool = True) -> tuple[Passage, ...]:
        return passages(question, self.buffer.search(question, scope, shared, _HITS))

    def _check_question(self, question: str) -> str:
        text, most = question.strip(), self.config.serve.max_question_chars
        if not text:
            raise invalid("the question is empty", "question")
        if len(text) > most:
            raise invalid(f"the question has {len(text)} characters; at most {most} are answered"
                          " (serve.max_question_chars)", "question")  # fmt: skip
        return text

    # -- documents ---------------------------------------------------------------------------------

    async def add(  # noqa: PLR0913 - the fields of a document
        self,
        caller: Caller,
        text: str,
        scope: Scope,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> tuple[Stored, Event]:
        """Write a document into the buffer; it is on the disk when this returns.

        Args:
            caller: needs the right ``write``.
            text: of the document.
            scope: whose it is; empty: shared, and trained at the next consolidation.
            title: of the document.
            metadata: JSON values that come back with it.
            name: its id; the same id, title and text again change nothing. "": a new one.

        Raises:
            ApiError: a wrong field; 409, the id is taken; 507, the buffer is full.
        """
        caller.need("write")
        caller.need_scope(scope)
        if name and not _ID.fullmatch(name):
            raise invalid("an id has 1 to 128 letters, digits and ._-, a letter or digit first",
                          "id")  # fmt: skip
        if name and any(one.id == name for one in load_tombstones(self.run.generations)):
            raise ApiError(409, "conflict", "a document with this id was forgotten", "id")
        document = _document(name or str(uuid.uuid4()), title, text, metadata, scope)
        known = self._known(document.id)
        done = await asyncio.to_thread(self.buffer.add, document, caller.name, known)
        self._consolidator.wake()
        return done

    async def replace(
        self,
        caller: Caller,
        name: str,
        text: str,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[Stored, Event]:
        """Give a document another text; from now on the memory does not answer from the old one.

        Raises:
            ApiError: 404; a wrong field.
        """
        caller.need("write")
        there = await self._visible(caller, name)
        caller.need_scope(there.scope)
        if not there.text:
            there = await asyncio.to_thread(self._with_text, there)
        kept = there.metadata if metadata is None else metadata
        document = _document(name, title or there.title, text, kept, there.scope)
        known = self._known(name, there.scope)
        done = await asyncio.to_thread(self.buffer.replace, document, caller.name, known)
        self._consolidator.wake()
        return done

    async def delete(self, caller: Caller, name: str) -> Event:
        """Delete a document: no answer uses it any more when this returns.

        Raises:
            ApiError: 404.
        """
        caller.need("delete")
        there = await self._visible(caller, name)
        caller.need_scope(there.scope)
        known = self._known(name, there.scope)
        event = await asyncio.to_thread(self.buffer.delete, name, caller.name, known)
        self._consolidator.wake()
        return event

    async def delete_scope(self, caller: Caller, scope: Scope) -> list[Event]:
        """Delete all documents of a scope.

        Raises:
            ApiError: the scope is empty or not the caller's.
        """
        caller.need("delete")
        if not scope:
            raise invalid("name a scope: user_id, agent_id, app_id or run_id")
        caller.need_scope(scope)
        rows = await asyncio.to_thread(self.buffer.listed, scope, -1)
        return [await self.delete(caller, row.id) for row in rows]

    async def document(self, caller: Caller, name: str) -> Stored:
        """A document, with its text where buffer or corpus has it.

        Raises:
            ApiError: 404, there is none, or it is of a scope that is not the caller's.
        """
        caller.need("read")
        there = await self._visible(caller, name)
        return there if there.text else await asyncio.to_thread(self._with_text, there)

    async def _visible(self, caller: Caller, name: str) -> Stored:
        """A document as the buffer knows it; one that only the memory has, without its text."""
        there = await asyncio.to_thread(self.buffer.get, name)
        if there is not None and there.scope and not caller.may_use(there.scope):
            raise not_found("document")
        if there is not None:
            return there
        hidden = await asyncio.to_thread(self.buffer.removed)
        if name in hidden or not self._known(name):
            raise not_found("document")
        return _trained(name)

    async def documents(
        self, caller: Caller, scope: Scope, limit: int = PAGE, offset: int = 0
    ) -> list[Stored]:
        """Documents of a scope, those of the buffer first; of the shared scope all that are known.

        Trained ones come without their text: that is in the weights.

        Raises:
            ApiError: the scope is not the caller's.
        """
        caller.need("read")
        if scope:
            caller.need_scope(scope)
        return await asyncio.to_thread(self._listed, scope, limit, offset)

    async def history(self, caller: Caller, name: str) -> list[Change]:
        """What happened to a document, oldest first.

        Raises:
            ApiError: 404.
        """
        caller.need("read")
        scope = await asyncio.to_thread(self.buffer.scope_of, name)
        if scope and not caller.may_use(scope):
            raise not_found("document")
        changes = await asyncio.to_thread(self.buffer.history, name)
        if not changes and not self._known(name):
            raise not_found("document")
        return changes

    # -- events ------------------------------------------------------------------------------------

    async def consolidate(self, caller: Caller) -> Event:
        """Have the pending documents trained, those of the shared scope first.

        Raises:
            ApiError: 403.
        """
        caller.need("admin")
        event = await asyncio.to_thread(self.buffer.request_consolidation, caller.name)
        self._consolidator.wake()
        return event

    async def event(self, caller: Caller, name: str) -> Event:
        """One event.

        Raises:
            ApiError: 404.
        """
        caller.need("read")
        event = await asyncio.to_thread(self.buffer.event, name)
        if event is None or (event.scope and not caller.may_use(event.scope)):
            raise not_found("event")
        return event

    async def events(self, caller: Caller, state: str = "") -> list[Event]:
        """The newest events that the caller may see, of one state where it is given.

        Raises:
            ApiError: 403.
        """
        caller.need("read")

        def seen(event: Event) -> bool:
            return not event.scope or caller.may_use(event.scope)

        return await asyncio.to_thread(self.buffer.events, PAGE, state, seen)

    async def receipt(self, caller: Caller, name: str) -> dict[str, Any]:
        """The receipt of a deletion.

        Raises:
            ApiError: 404; 409, the memory is not clean yet.
        """
        event = await self.event(caller, name)
        if event.kind != "DELETE":
            raise not_found("receipt of this event")
        if event.state != "SUCCEEDED":
            why = event.message or "the memory is still trained without the document"
            raise ApiError(409, "not_ready", why, retry_after=10)
        return await asyncio.to_thread(self._receipt, event)

    async def entities(self, caller: Caller) -> list[tuple[str, str, int]]:
        """(entity, name, documents) of the scopes that the caller may see."""
        caller.need("read")
        rows = await asyncio.to_thread(self.buffer.entities)
        return [row for row in rows if caller.may_use({row[0]: row[1]})]

    # -- what is known -----------------------------------------------------------------------------

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, as the memory cuts it."""
        return len(self.engine.known().tokenizer(text, add_special_tokens=False)["input_ids"])

    def first_tokens(self, text: str, most: int) -> tuple[str, bool]:
        """A text cut to ``most`` tokens, and whether something was cut."""
        tokenizer = self.engine.known().tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= most:
            return text, False
        return str(tokenizer.decode(ids[:most], skip_special_tokens=True)), True

    def _known(self, name: str, scope: Scope | None = None) -> str:
        """Content hash under which the memory (of a scope) has a document; "": it does not."""
        if scope:
            return self.scopes.documents(scope).get(name, "")
        return self.engine.known().documents.get(name, "")

    def _with_text(self, row: Stored) -> Stored:
        """Title and text from the corpus of the run, where it is there."""
        run = self.scopes.run(row.scope) if row.scope else self.run
        if (run.corpus / DOCUMENTS).exists():
            for one in iter_documents(run.corpus):
                if one.id == row.id:
                    return dataclasses.replace(row, title=one.title, text=one.text)
        return row

    def _listed(self, scope: Scope, limit: int, offset: int) -> list[Stored]:
        written = self.buffer.listed(scope, -1)
        if not scope:
            there = {row.id for row in written} | self.buffer.removed()
            rest = sorted(self.engine.known().documents.keys() - there)
            written += map(_trained, rest)
        return written[offset : offset + limit]

    def _receipt(self, event: Event) -> dict[str, Any]:
        run = self.scopes.run(event.scope) if event.scope else self.run
        folder = run.generations / "receipts"
        for path in sorted(folder.glob("*.json"), reverse=True):
            values = atomic.read_json(path)
            if any(row["id"] == event.document for row in values["documents"]):
                return dict(values)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.created))
        trained = any(row.kind == "TRAINED" for row in self.buffer.history(event.document))
        buffer = "text and words overwritten" + ("" if trained else "; the memory never had them")
        cleared = {"pending buffer": buffer}
        if trained:
            cleared["scope"] = "no document was left: its weights, texts and reflections removed"
        return {"documents": [{"id": event.document}], "time": when, "cleared": cleared}


def _open_engine(run: RunFolder, config: Config, hides: Hides) -> Answering:
    """What answers: this process, replicas of it, or vLLM behind it."""
    if config.serve.replicas:
        from memo_dist.serve.replicas import Replicas

        return Replicas(run, config, hides)
    if config.serve.engine == "vllm":
        from memo_dist.serve.vllm.bank import opener

        return Engine(run, config, hides, open_memories=opener(run, config))
    return Engine(run, config, hides)


def _trained(name: str) -> Stored:
    """A document that was not written here."""
    return Stored(name, 0, name, "", {}, {}, TRAINED, 0.0, 0.0)


def _document(
    name: str, title: str, text: str, metadata: Mapping[str, Any] | None, scope: Scope
) -> Stored:
    """A document that is written, checked.

    Raises:
        ApiError: 400.
    """
    if not text.strip():
        raise invalid("the text is empty", "text")
    if "\0" in text or "\0" in title:
        raise invalid("the text holds a NUL character", "text")
    clean_title = " ".join(title.split())
    if len(clean_title) > _MAX_TITLE:
        raise invalid(f"a title has at most {_MAX_TITLE} characters", "title")
    values = dict(metadata or {})
    return Stored(name, 0, clean_title, text, values, dict(scope), PENDING, 0.0, 0.0)
