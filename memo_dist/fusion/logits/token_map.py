"""Between two vocabularies: tokens that write the same bytes are one; the rest is mass lost.

A memory's probability of a token goes to the backbone's token that writes the same bytes. Tokens
without such a partner lose their probability; the rest is renormalised by the mixture. In the
other direction every backbone token can be read by the memory: as one token, or as several.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from memo_dist.models.chat_format import ChatFormat

_BYTE_LEVEL_SPACE = "\u0120"
_METASPACE = "\u2581"


class TokenMap:
    """From a source's vocabulary to the backbone's, and back.

    Attributes:
        matched: backbone tokens that have a partner.
        width: ids of the backbone's vocabulary, gaps included.
    """

    def __init__(self, source: Any, backbone: Any, head: int) -> None:
        """Match the tokens of two tokenizers.

        Args:
            source: the memory's tokenizer.
            backbone: the backbone's tokenizer.
            head: tokens that the memory reads and writes; its tokenizer may know more.
        """
        self._tokenizer = source
        self._written = token_bytes(backbone)
        self._by_bytes: dict[bytes, int] = {}
        for token, written in enumerate(token_bytes(source)[:head]):
            if written is not None:
                self._by_bytes.setdefault(written, token)
        self._bytes = {token: written for written, token in self._by_bytes.items()}
        self._longest = max(map(len, self._by_bytes), default=0)
        partners = [
            -1 if written is None else self._by_bytes.get(written, -1) for written in self._written
        ]
        # The ends of an answer are one another's partners, whatever they are called.
        self._end = _end_of_answer(source)
        self._stops = ChatFormat.from_tokenizer(backbone).stop_ids
        partners[_end_of_answer(backbone)] = self._end
        self._partners = torch.tensor([p if p < head else -1 for p in partners])
        self.width = len(partners)
        self.matched = int((self._partners >= 0).sum())
        self.to_source = lru_cache(maxsize=65536)(self._to_source)

    def to_backbone(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs over the backbone's vocabulary, not renormalised, and the mass lost.

        Args:
            logits: [..., source vocabulary or wider].

        Returns:
            float32 [..., backbone vocabulary] (-inf without a partner), and the lost
            probability, float32 [...].
        """
        log_probs = logits.float().log_softmax(dim=-1)
        partners = self._partners.to(logits.device)
        found = log_probs[..., partners.clamp_min(0)]
        mapped = found.masked_fill(partners < 0, -torch.inf)
        return mapped, (1.0 - mapped.exp().sum(dim=-1)).clamp_min(0.0)

    def _to_source(self, token: int) -> tuple[int, ...]:
        """The source's tokens that write what a backbone token writes; at least one."""
        if token in self._stops:
            return (self._end,)
        written = self._written[token] or b""
        whole = self._by_bytes.get(written)
        if whole is not None:
            return (whole,)
        return tuple(self._encoded(written) or self._longest_first(written)) or (self._end,)

    def _encoded(self, written: bytes) -> list[int]:
        """As the source's own tokenizer writes it, where that gives the same bytes."""
        try:
            text = written.decode("utf-8")
        except UnicodeDecodeError:
            return []
        ids = list(self._tokenizer.encode(text, add_special_tokens=False))
        return ids if b"".join(self._bytes.get(i, b"\0") for i in ids) == written else []

    def _longest_first(self, written: bytes) -> list[int]:
        """Longest known beginnings; bytes that the source cannot write are left out."""
        ids, at = [], 0
        while at < len(written):
            ends = range(min(len(written), at + self._longest), at, -1)
            end = next((end for end in ends if written[at:end] in self._by_bytes), None)
            if end is not None:
                ids.append(self._by_bytes[written[at:end]])
            at = end or at + 1
        return ids


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """What each token writes, by id; None: special tokens and unused ids.

    Reads both alphabets that fast tokenizers use: byte-level BPE (GPT-2's), and SentencePiece's
    with its marked spaces and byte tokens.
    """
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    byte_level = any(_BYTE_LEVEL_SPACE in token for token in vocabulary)
    written: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index not in special:
            written[index] = _byte_level(token) if byte_level else _sentence_piece(token)
    return written


def _byte_level(token: str) -> bytes | None:
    alphabet = _byte_alphabet()
    if any(character not in alphabet for character in token):
        return None
    return bytes(alphabet[character] for character in token)


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_METASPACE, " ").encode()


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: printable ones as they are, then 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    known = {chr(byte): byte for byte in printable}
    return known | {chr(256 + place): byte for place, byte in enumerate(others)}


def _end_of_answer(tokenizer: Any) -> int:
    """The token that ends an answer in the format of training."""
    return int(ChatFormat.from_tokenizer(tokenizer).answer_ids("x")[-1])


def mean_lost(parts: Sequence[Tensor]) -> float:
    """Mean of the mass lost over all positions read; 0 where nothing was mapped."""
    if not parts:
        return 0.0
    return float(torch.cat([part.flatten() for part in parts]).mean())
