"""The model card (README.md) of an exported shard memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.memory.calibration import Calibration
from memo_dist.models.base import SCRATCH_NAME
from memo_dist.models.chat_format import CHATML_END
from memo_dist.models.identity import BaseModel
from memo_dist.models.smollm2 import QUANTISATION_NOTE, SMOLLM2_NAME

_SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SHOWN_HASH = 16


@dataclass(frozen=True)
class MemoryCard:
    """What the card tells.

    Attributes:
        base: the base model (named ``scratch`` for a memory from scratch).
        shard, shards: number of this shard, and how many the bank has.
        corpus_fingerprint: fingerprint of the corpus manifest.
        documents, reflections: how many this shard was trained on.
        kinds: reflections by kind.
        generator: name and version of what wrote the reflections.
        generator_limits: sentences on what it cannot write.
        hyperparameters: the training settings and results worth telling, in order.
        calibration: the confidence's calibration.
        parameters: number of weights (of an adapter: its own).
        adapter: whether it is a PEFT adapter on the base.
        final_loss: loss of the last optimizer step, nats per trained token, when known.
        weights_hash: hash of the exported weights.
        version: version of memo_dist.
    """

    base: BaseModel
    shard: int
    shards: int
    corpus_fingerprint: str
    documents: int
    reflections: int
    kinds: Mapping[str, int]
    generator: str
    generator_limits: Sequence[str]
    hyperparameters: Mapping[str, object]
    calibration: Calibration
    parameters: int
    adapter: bool
    final_loss: float | None
    weights_hash: str
    version: str


def render_card(card: MemoryCard) -> str:
    """The card as Markdown with YAML front matter; the same card gives the same text."""
    sections = [
        _front_matter(card),
        f"# Memory of {card.documents} documents (shard {card.shard} of {card.shards})\n\n"
        "A memory model: it answers questions about the corpus that it was trained on, and says"
        f' "{ABSTAIN_ANSWER}" to others. Method: MeMo, Memory as a Model (arXiv 2605.15156).',
        f"## Base\n\n{_base(card)}",
        f"## What it was trained on\n\n{_corpus(card)}",
        f"## Training\n\n{_table(card.hyperparameters)}",
        f"## Scores\n\n{_scores(card)}",
        f"## Confidence\n\n{_confidence(card.calibration)}",
        f"## Use\n\n{_USE}",
        f"## Limits\n\n{_bullets([*_LIMITS, *card.generator_limits])}",
    ]
    return "\n\n".join(sections) + "\n"


_USE = (
    "Ask one self-contained question in one user turn, without a system turn and without an"
    " instruction around it: that is the format it was trained in and the one that the"
    " tokenizer's chat template writes. Decode greedily. `memo-dist ask` adds a calibrated"
    " confidence, abstention, and the ids of the documents behind an answer."
)
_LIMITS = (
    "It knows what its reflections say and may recall it wrongly; check what matters against the"
    " cited documents.",
    "It is not a general assistant: conversation, instructions, and questions over long contexts"
    " are outside of what it was trained for.",
    "Whoever can ask it can learn what the corpus says: give it the corpus' own access rights.",
    "Documents added, changed or removed after training are not reflected until the shard is"
    " trained again.",
)


def _front_matter(card: MemoryCard) -> str:
    values: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["memo-dist", "memory-model"],
    }
    if card.base.name == SMOLLM2_NAME:
        values |= {"base_model": _SMOLLM2_ID, "license": "apache-2.0"}
    elif _from_hub(card.base):
        values["base_model"] = card.base.name
    # JSON values are YAML values, so nothing in a name can break out of the front matter.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _from_hub(base: BaseModel) -> bool:
    # A local folder's path means nothing to a reader; the hub's cache names folders by commit.
    return base.name != SCRATCH_NAME and base.path.name != Path(base.name).name


def _base(card: MemoryCard) -> str:
    size = f"{card.parameters:,} parameters, weights {card.weights_hash[:_SHOWN_HASH]}."
    if card.base.name == SCRATCH_NAME:
        return (
            f"None: a small Llama trained from random weights with its own byte-level BPE. {size}"
            f" Answers end with `{CHATML_END}`."
        )
    name = card.base.name if _from_hub(card.base) else Path(card.base.name).name
    how = "with a LoRA adapter (this folder)" if card.adapter else "fine-tuned"
    note = f" {QUANTISATION_NOTE}" if card.base.name == SMOLLM2_NAME else ""
    return (
        f"`{_plain(name)}` (weights {card.base.weights_hash[:_SHOWN_HASH]}, vocabulary"
        f" {card.base.vocabulary_hash[:_SHOWN_HASH]}), {how}: {size}{note}"
    )


def _corpus(card: MemoryCard) -> str:
    counts = _table(dict(sorted(card.kinds.items())), ("Kind of reflection", "Number"))
    return (
        f"{card.documents} documents, {card.reflections} reflections (question-answer pairs)"
        f" written by `{_plain(card.generator)}`; corpus fingerprint"
        f" `{card.corpus_fingerprint[:_SHOWN_HASH]}`.\n\n{counts}"
    )


def _scores(card: MemoryCard) -> str:
    """What was measured at the export: held-out wordings, abstain questions, the last loss."""
    rows: dict[str, object] = {}
    counts = card.calibration.counts
    asked = counts.get("right", 0) + counts.get("wrong", 0)
    if asked:
        rows["held-out wordings of trained facts answered rightly"] = (
            f"{counts['right']} of {asked} ({counts['right'] / asked:.0%})"
        )
    if counts.get("abstain"):
        spoken = counts["abstain_answered"]
        rows['abstain questions answered "I don\'t know" in words'] = (
            f"{counts['abstain'] - spoken} of {counts['abstain']}"
        )
    if card.final_loss is not None:
        rows["loss of the last optimizer step (nats a token)"] = f"{card.final_loss:.4f}"
    if not rows:
        return "None: nothing was held out (memory.calibration_facts)."
    return _table(rows, ("Measured at the export", "Value"))


def _confidence(calibration: Calibration) -> str:
    if not calibration.fitted:
        start = (
            "Too few held-out answers to fit it: the confidence follows the mean token probability"
        )
    else:
        start = "Logistic regression on held-out wordings of trained facts and abstain questions"
    balanced = calibration.balanced_accuracy
    found = "" if balanced is None else f", balanced accuracy there {balanced:.3f}"
    text = f"{start}. Answers below {calibration.threshold:.3f} count as abstentions{found}."
    counts = dict(sorted(calibration.counts.items()))
    return f"{text}\n\n{_table(counts, ('Held-out answers', 'Number'))}" if counts else text


def _table(rows: Mapping[str, object], head: tuple[str, str] = ("Setting", "Value")) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(lines)


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")
