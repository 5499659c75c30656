"""Replay: a share of the trained tokens is other text, so that the base's language stays.

Ten percent of general text beside synthetic data is what EntiGraph (arXiv 2409.07431) and
synthetic mixed training (arXiv 2603.23562) use. Where no such text is at hand the base writes it
itself, before it is trained: a chat model writes questions and answers of its own after the mark
that opens a user's turn (Magpie, arXiv 2406.08464), another one text after its first token. What
a base writes is a sample of its own distribution, so the loss on it is an estimate of the forward
divergence KL(base || memory) up to the base's entropy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from memo_dist.cluster.stop import STOP
from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, hash_value, stable_modulo
from memo_dist.models.chat_format import CHATML_START
from memo_dist.models.loading import LanguageModel, load_language_model, release_gpu
from memo_dist.training.documents import tokenize_documents
from memo_dist.training.examples import Examples

VERSION = "1"
"""Raise it with every change of how a base writes."""
FILE = "replay.safetensors"
RECORD = "replay.json"

_LENGTH = 128
_OPENING = 8  # most tokens before a text
_BATCH = 32
_BUCKETS = 1 << 32


def replayed_tokens(trained: float, share: float) -> int:
    """Tokens of replay beside ``trained`` ones, so that they are ``share`` of all."""
    return math.ceil(share / (1.0 - share) * trained)


def from_text(path: Path, tokens: int, max_tokens: int, tokenizer: Any, seed: int) -> Examples:
    """Pieces of a text file with loss on all tokens, chosen by seed.

    Args:
        path: UTF-8 text (``train.replay_text``); a blank line ends a paragraph.
        tokens: fewest trained tokens; all of the text where it has fewer.
        max_tokens: longest piece (``train.micro_batch_tokens``).
        tokenizer: of the base model.
        seed: of the choice.

    Raises:
        UsageError: the file cannot be read or holds no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"train.replay_text={path} cannot be read: {error}") from error
    parts = [part for part in text.split("\n\n") if part.strip()]
    if not parts:
        raise UsageError(f"train.replay_text={path} holds no text")
    parts.sort(key=lambda part: stable_modulo(f"{seed}:{part}", _BUCKETS))
    documents = (Document(str(n), "", part) for n, part in enumerate(parts))
    pieces = tokenize_documents(documents, tokenizer, max_tokens)
    enough = int(np.searchsorted(np.cumsum(pieces.trained), tokens)) + 1
    return pieces.subset(range(min(enough, len(pieces))))


def written_by_base(  # noqa: PLR0913
    base: Path, weights: str, tokens: int, max_tokens: int, seed: int, folder: Path
) -> Examples:
    """What an untouched base writes, with loss on all of its own tokens; kept in ``folder``.

    Args:
        base: its folder.
        weights: hash of its weights.
        tokens: fewest trained tokens.
        max_tokens: longest text (``train.micro_batch_tokens``).
        seed: of the sampling.
        folder: gets ``replay.safetensors`` and its record; texts of other arguments are replaced.

    Raises:
        StoppedError, InterruptedRunError: a stop was requested.
        UsageError: the base does not load.
    """
    count = math.ceil(tokens / min(_LENGTH, max_tokens - _OPENING))
    length = math.ceil(tokens / count)
    made_of = hash_value([VERSION, weights, seed, tokens, length])
    path, record = folder / FILE, folder / RECORD
    if not _is_whole(path, record, made_of):
        failure = f"the base in '{base}' cannot be loaded to write what train.replay needs"
        model = load_language_model(base, failure, "choose another memory.base")
        opening = _opening(model.tokenizer)
        texts = _write(model, opening, count, length, seed)
        del model
        release_gpu()
        record.unlink(missing_ok=True)
        values = {"ids": texts, "opening": np.array([len(opening)], np.int32)}
        atomic.write_bytes(path, save(values))
        atomic.write_json(record, {"made of": made_of, "sha256": hash_file(path)})
    stored = load(path.read_bytes())
    ids, opening_tokens = stored["ids"], int(stored["opening"][0])
    starts = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    untrained = np.full(len(ids), opening_tokens, np.int32)
    return Examples(ids.reshape(-1), starts, untrained, untrained)


def _is_whole(path: Path, record: Path, made_of: str) -> bool:
    if not (path.is_file() and record.is_file()):
        return False
    found = atomic.read_json(record)
    return bool(found.get("made of") == made_of and found.get("sha256") == hash_file(path))


def _opening(tokenizer: Any) -> list[int]:
    """What the base's texts begin with: the opening of a user's turn, or the first token."""
    if tokenizer.chat_template and CHATML_START in tokenizer.get_vocab():
        return list(tokenizer.encode(f"{CHATML_START}user\n", add_special_tokens=False))
    first = tokenizer.bos_token_id
    return [tokenizer.eos_token_id if first is None else first]


@torch.inference_mode()
def _write(
    model: LanguageModel, opening: list[int], count: int, length: int, seed: int
) -> np.ndarray:
    """int32 [count, opening + length], sampled at temperature 1 from the whole distribution.

    The numbers that decide are drawn on the CPU, batch by batch in a fixed order.
    """
    chance = torch.Generator().manual_seed(seed)
    known = len(model.tokenizer)
    parts = []
    for start in range(0, count, _BATCH):
        if STOP():
            raise STOP.error("nothing is trained yet; run the command again")
        rows = min(_BATCH, count - start)
        parts.append(_batch(model.model, opening, rows, length, known, chance))
    return torch.cat(parts).int().numpy()


def _batch(  # noqa: PLR0913
    model: Any, opening: list[int], rows: int, length: int, known: int, chance: torch.Generator
) -> torch.Tensor:
    ids = torch.tensor([opening] * rows)
    cache, given = None, ids
    for _ in range(length):
        output = model(given.to(model.device), past_key_values=cache, use_cache=True)
        logits = output.logits[:, -1, :known].float().cpu()
        given = torch.multinomial(logits.softmax(1), 1, generator=chance)
        ids, cache = torch.cat([ids, given], 1), output.past_key_values
    return ids
