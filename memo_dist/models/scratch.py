"""``memory.base=scratch``: an own byte-level BPE and a small Llama with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memo_dist.config.schema import ScratchConfig
from memo_dist.errors import UsageError
from memo_dist.io.hashing import sha256_text
from memo_dist.models.chat_format import CHATML_END, CHATML_START

PADDING = "<|endoftext|>"
SPECIALS = (PADDING, CHATML_START, CHATML_END)
MAX_POSITIONS = 2048

_PAD_ID, _START_ID, _END_ID = range(3)
_SMALLEST = 256 + len(SPECIALS)


def train_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> int:
    """Train a byte-level BPE (single digits, as in SmolLM2) and save it as an HF tokenizer.

    Args:
        texts: read once; the same texts in any order give the same files.
        vocabulary: largest number of tokens, the three special ones and 256 bytes included;
            fewer where the texts hold fewer pairs.
        folder: gets ``tokenizer.json`` and ``tokenizer_config.json``.

    Returns:
        The number of tokens.

    Raises:
        UsageError: ``vocabulary`` is too small for every byte.
    """
    if vocabulary < _SMALLEST:
        raise UsageError(
            f"memory.scratch.vocabulary={vocabulary} is too small; every byte needs a token:"
            f" at least {_SMALLEST}"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, _trainer(vocabulary))
    _wrap(bpe).save_pretrained(folder)
    return int(bpe.get_vocab_size())


def general_texts() -> Iterator[str]:
    """Texts that a vocabulary can be learned from without any corpus: common English words.

    The package's list has the most frequent words first; each counts in proportion to one over
    its rank, as words of a language do (Zipf, The psycho-biology of language, 1935). Further
    repeats stand for the capital at a sentence's start.
    """
    words = _words_file().read_text(encoding="utf-8").split()
    for rank, word in enumerate(words, start=1):
        count = 2 + len(words) // rank
        yield f" {word}" * count + f" {word.capitalize()}" * (count // 2)


def general_hash() -> str:
    """SHA-256 of what :func:`general_texts` reads."""
    return sha256_text(_words_file().read_text(encoding="utf-8"))


def _words_file() -> Traversable:
    return files("memo_dist.models") / "common_words.txt"


def scratch_model_config(scratch: ScratchConfig, vocab_size: int) -> LlamaConfig:
    """The Llama that ``memory.scratch`` describes: tied embeddings, 2048 positions, float32.

    Args:
        scratch: the shape.
        vocab_size: number of tokens of the tokenizer (see :func:`train_tokenizer`).

    Raises:
        UsageError: a size is not positive, or the heads do not divide the width into even parts.
    """
    for key in ("hidden_size", "layers", "heads", "intermediate_size"):
        if getattr(scratch, key) < 1:
            raise UsageError(f"memory.scratch.{key}={getattr(scratch, key)} must be at least 1")
    if scratch.hidden_size % (2 * scratch.heads):
        raise UsageError(
            f"memory.scratch.hidden_size={scratch.hidden_size} must be a multiple of twice"
            f" memory.scratch.heads={scratch.heads} (rotary positions turn pairs of a head's width)"
        )
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=_PAD_ID,
        bos_token_id=_START_ID,
        eos_token_id=_END_ID,
        dtype="float32",
    )


def new_scratch_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A float32 Llama on the CPU with random weights: the same seed, the same weights.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def _trainer(vocabulary: int) -> Any:
    return trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _wrap(bpe: Any) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PADDING,
        bos_token=CHATML_START,
        eos_token=CHATML_END,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
