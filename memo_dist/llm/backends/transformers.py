"""A causal language model in this process; a grammar holds its answers to their JSON schema."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from memo_dist.config.model_schema import EndpointConfig
from memo_dist.errors import UsageError, install_hint
from memo_dist.llm.backends.base import Answer, RequestRefused
from memo_dist.llm.requests import Request, Usage
from memo_dist.models.base import resolve_base
from memo_dist.models.loading import load_language_model


class TransformersBackend:
    """One model, one request at a time, off the event loop's thread."""

    def __init__(self, config: EndpointConfig) -> None:
        key = f"{config.group}.model"
        folder = resolve_base(config.model, key=key).path
        failure = f"{key}='{config.model}' cannot be loaded"
        self._model, self._tokenizer = load_language_model(folder, failure, "name another model")
        self._grammar = (
            _Grammar(self._tokenizer, self._model, config.group)
            if config.structured == "server"
            else None
        )
        self._thread = ThreadPoolExecutor(1, "transformers")
        self.name = f"transformers {config.model}"

    async def complete(self, request: Request, tag: str) -> Answer:
        """See :meth:`memo_dist.llm.backends.base.Backend.complete`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._generate, request)

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _generate(self, request: Request) -> Answer:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        encoded = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        prompt = encoded["input_ids"].shape[1]
        self._check_room(prompt)
        torch.manual_seed(request.seed)
        output = self._model.generate(
            **encoded,
            **_sampling(request),
            max_new_tokens=request.max_tokens,
            pad_token_id=self._tokenizer.eos_token_id,
            logits_processor=self._processors(request, prompt),
        )
        written = output[0, prompt:]
        ended = len(written) > 0 and int(written[-1]) in self._ends()
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        usage = Usage(prompt=prompt, completion=len(written))
        return Answer(text, "stop" if ended else "length", usage)

    def _check_room(self, prompt: int) -> None:
        room = getattr(self._model.config, "max_position_embeddings", prompt + 1)
        if prompt >= room:
            raise RequestRefused(f"the prompt has {prompt} tokens, the model reads {room}")

    def _ends(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        found = set(ends if isinstance(ends, list) else [ends])
        return found | {self._tokenizer.eos_token_id}

    def _processors(self, request: Request, prompt: int) -> LogitsProcessorList:
        if request.schema is None or self._grammar is None:
            return LogitsProcessorList([])
        return LogitsProcessorList([self._grammar.processor(request.schema, prompt)])


def _sampling(request: Request) -> dict[str, Any]:
    if request.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": request.temperature}


class _Grammar:
    """The one place that knows llguidance."""

    def __init__(self, tokenizer: Any, model: Any, group: str) -> None:
        try:
            import llguidance
            import llguidance.hf
        except ImportError:
            raise UsageError(
                f"{group}.kind=transformers needs llguidance for structured answers:"
                f" {install_hint('grammar')}, or set {group}.structured=prompt"
            ) from None
        self._library = llguidance
        self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=model.config.vocab_size)

    def processor(self, schema: str, prompt: int) -> LogitsProcessor:
        """A logits processor for one answer.

        Free whitespace is forbidden: models loop on it until they are cut off (vLLM #38696).
        """
        compact = json.dumps({"whitespace_flexible": False})
        grammar = self._library.LLMatcher.grammar_from_json_schema(
            schema, overrides=json.loads(compact)
        )
        return _GrammarProcessor(self._library.LLMatcher(self._tokens, grammar), prompt)


class _GrammarProcessor(LogitsProcessor):  # type: ignore[misc]
    """Forbids the tokens that the grammar does not allow next; for one sequence."""

    def __init__(self, matcher: Any, prompt: int) -> None:
        self._matcher = matcher
        self._seen = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``input_ids`` [1, tokens] and ``scores`` [1, vocabulary]: the scores, masked."""
        for token in input_ids[0, self._seen :].tolist():
            self._matcher.consume_token(token)
        self._seen = input_ids.shape[1]
        if self._matcher.is_error():
            raise RequestRefused(f"grammar: {self._matcher.get_error()[:200]}")
        bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = torch.zeros(scores.shape[-1], dtype=torch.bool)
        allowed[: len(bias)] = bias[: scores.shape[-1]] != 0
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))
