"""The table of compared methods: those of this package, and those of entry points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from memo_dist.compare.method import ENTRY_POINTS, Make, Method, Setting
from memo_dist.errors import UsageError, suggest
from memo_dist.version import VERSION

ROWS_VERSION = "2"
"""Raise it where what this package makes of the same inputs changes: finished rows of an earlier
version are done again."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method of the table.

    Attributes:
        module: that holds it; imported only when it is made.
        make: name of the callable there, :data:`memo_dist.compare.method.Make`.
        meaning: a short phrase for the report.
    """

    module: str
    make: str
    meaning: str


_RETRIEVAL = "memo_dist.compare.retrieval"
_MEMORIES = "memo_dist.compare.memories"
_WEIGHTS = "memo_dist.compare.weights"
METHODS: Mapping[str, Row] = {
    "closed_book": Row(_RETRIEVAL, "closed_book", "the reader without documents"),
    "oracle": Row(_RETRIEVAL, "oracle", "the reader with the gold documents: an upper bound"),
    "full_context": Row(_RETRIEVAL, "full_context", "the reader with the whole corpus"),
    "bm25": Row(_RETRIEVAL, "bm25", "retrieval by words (BM25)"),
    "dense": Row(_RETRIEVAL, "dense", "retrieval by vectors"),
    "hybrid": Row(_RETRIEVAL, "hybrid", "BM25 and vectors, joined by reciprocal rank"),
    "graph": Row(_RETRIEVAL, "graph", "retrieval by PageRank over entities (after HippoRAG)"),
    "sft": Row(_WEIGHTS, "sft", "the reader fine-tuned on the reflections"),
    "sft_documents": Row(_WEIGHTS, "sft_documents", "the reader fine-tuned on the documents"),
    "lora": Row(_WEIGHTS, "lora", "LoRA of the reader on the reflections"),
    "lora_documents": Row(_WEIGHTS, "lora_documents", "LoRA of the reader on the documents"),
    "distilled_lora": Row(
        _WEIGHTS, "distilled_lora", "LoRA taught by the reader with the passage before it"
    ),
    "doc_to_lora": Row(
        "memo_dist.compare.doc_to_lora", "doc_to_lora", "adapters made by a hypernetwork"
    ),
    "memory": Row(_MEMORIES, "direct", "the memory alone"),
    "memory_protocol": Row(_MEMORIES, "protocol", "an executive that questions the memory"),
    "memory_logits": Row(_MEMORIES, "logits", "a backbone mixed with the memory's logits"),
    "memory_latent": Row(_MEMORIES, "latent", "a backbone that attends to the memory"),
    "memory_bm25": Row(_MEMORIES, "with_bm25", "the memory where it is sure, else BM25"),
}
"""Every built-in method by name, in the order of the report."""


DEFAULT = (
    "closed_book",
    "oracle",
    "full_context",
    "bm25",
    "dense",
    "hybrid",
    "graph",
    "memory",
    "memory_bm25",
)
"""Methods of a comparison that names none: those that need neither training nor an executive."""


def check_methods(names: Sequence[str]) -> None:
    """Refuse methods that do not exist, before anything is loaded.

    Raises:
        UsageError: names the known ones.
    """
    known = [*METHODS, *(point.name for point in entry_points(group=ENTRY_POINTS))]
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown method '{name}'{suggest(name, known)}; methods are {', '.join(known)}"
            )


def origin(name: str) -> str:
    """What identifies the code of a method: for an outside one, its package and version."""
    if name in METHODS:
        return VERSION
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name and point.dist is not None:
            return f"{point.value} {point.dist.name} {point.dist.version}"
    return ""


def make_method(name: str, setting: Setting) -> Method:
    """Make a method of this package or of an entry point.

    Raises:
        UsageError: there is no such method.
    """
    check_methods([name])
    if name in METHODS:
        row = METHODS[name]
        make: Make = getattr(import_module(row.module), row.make)
        return make(setting)
    (point, *_) = entry_points(group=ENTRY_POINTS, name=name)
    loaded: Make = point.load()
    return loaded(setting)
