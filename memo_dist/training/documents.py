"""``train.source=documents``: raw text instead of reflections, for the comparison of the two.

A document is its title and text, ended by the tokenizer's end-of-text token, and cut into pieces.
Every token is trained but the first of a document, which nothing precedes; pieces overlap by
that one token of context.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.training.examples import Examples


def tokenize_documents(documents: Iterable[Document], tokenizer: Any, max_tokens: int) -> Examples:
    """Tokenise documents into examples whose only untrained token is the first.

    Args:
        documents: of one shard, in the corpus' order.
        tokenizer: of the base model.
        max_tokens: longest piece (``train.micro_batch_tokens``).

    Raises:
        UsageError: there is no text.
    """
    pieces = [
        piece
        for document in documents
        for piece in _pieces(_document_ids(document, tokenizer), max_tokens)
    ]
    if not pieces:
        raise UsageError("train.source=documents, but the shard's documents hold no text")
    starts = np.cumsum([0, *map(len, pieces)]).astype(np.int64)
    ids = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    first = np.ones(len(pieces), np.int32)
    return Examples(ids, starts, first, first)


def _document_ids(document: Document, tokenizer: Any) -> list[int]:
    text = document.text.strip()
    if document.title and document.title not in text:
        text = f"{document.title}\n\n{text}"
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    end = tokenizer.eos_token_id
    return ids if end is None else [*ids, end]


def _pieces(ids: list[int], max_tokens: int) -> list[list[int]]:
    """Windows of at most ``max_tokens``, each beginning with the last token of the one before."""
    windows = (ids[start : start + max_tokens] for start in range(0, len(ids), max_tokens - 1))
    return [window for window in windows if len(window) > 1]
