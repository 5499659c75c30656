"""One format for training, asking, serving and fusing: a question turn and an answer turn.

There is no system turn: SmolLM2's default one alone is 21 of the 49 tokens of a typical
example. The turns are written with the tokenizer's own ChatML marks where it has them as
single tokens, and as plain ``Question:`` / ``Answer:`` lines where it does not, so that the
boundary between prompt and answer is always a boundary between separately tokenised parts
and the loss mask follows from known lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from memo_dist.errors import UsageError

CHATML_START = "<|im_start|>"
CHATML_END = "<|im_end|>"

_CHATML_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PLAIN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ BOS + 'Question: ' + m['content'] | trim"
    " + '\nAnswer:' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + EOS }}"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class _Turns:
    """The literal text around a question and an answer."""

    before: str
    between: str
    end: str
    answer_prefix: str
    template: str


class ChatFormat:
    """Renders questions and answers into token ids for one tokenizer.

    Attributes:
        stop_ids: tokens that end an answer during generation.
        pad_id: token used for padding; never trained on.
    """

    def __init__(self, tokenizer: Any, turns: _Turns, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._turns = turns
        self.stop_ids = stop_ids
        self.pad_id = _pad_id(tokenizer, stop_ids)
        self._opening = self._encode(turns.before)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, key: str = "memory.base") -> ChatFormat:
        """Choose the turns that this tokenizer can write.

        Args:
            tokenizer: of a causal language model.
            key: the configuration key that names the model; the message names it.

        Raises:
            UsageError: the tokenizer has no end-of-text token, so an answer has no end.
        """
        vocabulary = tokenizer.get_vocab()
        if CHATML_START in vocabulary and CHATML_END in vocabulary:
            turns = _Turns(
                f"{CHATML_START}user\n",
                f"{CHATML_END}\n{CHATML_START}assistant\n",
                CHATML_END,
                "",
                _CHATML_TEMPLATE,
            )
            return cls(tokenizer, turns, _ids_of(tokenizer, CHATML_END, tokenizer.eos_token))
        eos = tokenizer.eos_token
        if eos is None:
            raise UsageError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no end-of-text token, so no"
                f" answer could end; choose another {key}"
            )
        bos = tokenizer.bos_token or ""
        template = _PLAIN_TEMPLATE.replace("BOS", repr(bos)).replace("EOS", repr(eos))
        turns = _Turns(f"{bos}Question: ", "\nAnswer:", eos, " ", template)
        return cls(tokenizer, turns, _ids_of(tokenizer, eos))

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids up to where the answer begins."""
        return self._encode(self._turns.before + question.strip() + self._turns.between)

    def prompts_ids(self, questions: Sequence[str]) -> list[list[int]]:
        """:meth:`prompt_ids` of each question, several times as fast."""
        before, between = self._turns.before, self._turns.between
        return self._encode_all([f"{before}{text.strip()}{between}" for text in questions])

    def answers_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """:meth:`answer_ids` of each answer."""
        prefix, end = self._turns.answer_prefix, self._turns.end
        return self._encode_all([f"{prefix}{text.strip()}{end}" for text in answers])

    def question_start(self, prompt: Sequence[int]) -> int:
        """Place of the question's first token among those of its prompt, at least 1.

        Nothing predicts the first token of all. A tokenizer may join the end of the opening with
        the question's beginning: then the place is that of the joint token.
        """
        pairs = zip(self._opening, prompt, strict=False)
        return max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of the answer and the token that ends it: the trained part."""
        return self._encode(self._turns.answer_prefix + answer.strip() + self._turns.end)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the first stop token, without special tokens."""
        kept = []
        for token in ids:
            if token in self.stop_ids:
                break
            kept.append(token)
        return str(self._tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def install(self, tokenizer: Any) -> None:
        """Write this format into ``tokenizer`` as its chat template and padding token."""
        tokenizer.chat_template = self._turns.template
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.pad_id)
        tokenizer.padding_side = "left"

    def _encode_all(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [list(ids) for ids in found["input_ids"]]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _ids_of(tokenizer: Any, *tokens: str | None) -> frozenset[int]:
    return frozenset(tokenizer.convert_tokens_to_ids(t) for t in tokens if t is not None)


def _pad_id(tokenizer: Any, stop_ids: frozenset[int]) -> int:
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return min(stop_ids)
