"""Verb forms and noun numbers, by lemminflect (imported at the first use)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_IRREGULAR_THIRD = {"be": "is", "have": "has", "do": "does"}


@lru_cache(maxsize=4096)
def past(lemma: str) -> str:
    """The past tense: "write" gives "wrote"."""
    return _inflect(lemma, "VBD")


@lru_cache(maxsize=4096)
def participle(lemma: str) -> str:
    """The past participle: "write" gives "written"."""
    return _inflect(lemma, "VBN")


@lru_cache(maxsize=4096)
def third_person(lemma: str) -> str:
    """The third person singular of the present: "carry" gives "carries"."""
    return _IRREGULAR_THIRD.get(lemma) or _inflect(lemma, "VBZ")


@lru_cache(maxsize=4096)
def singular(noun: str) -> str:
    """The singular of a noun: "companies" gives "company"."""
    found = _library().getLemma(noun, upos="NOUN")
    return str(found[0]) if found else noun


@lru_cache(maxsize=4096)
def verb_lemma(form: str) -> str:
    """The base form of a verb: "works" gives "work"."""
    found = _library().getLemma(form, upos="VERB")
    return str(found[0]) if found else form


@lru_cache(maxsize=16384)
def parts_of_speech(word: str) -> frozenset[str]:
    """What an English word can be (``NOUN``, ``VERB``, ``ADJ``, ...); empty for unknown words."""
    return frozenset(_library().getAllLemmas(word.lower()))


def verb_form(lemma: str, model: str) -> str:
    """The form of ``lemma`` (its first word) that a verb tagged ``model`` (CLAWS 5) has."""
    first, _, rest = lemma.partition(" ")
    form = {"VVD": past, "VVN": participle, "VVZ": third_person}.get(model, str)(first)
    return f"{form} {rest}".strip()


def _inflect(lemma: str, tag: str) -> str:
    forms = _library().getInflection(lemma, tag=tag)
    return str(forms[0]) if forms else lemma


def _library() -> Any:
    import lemminflect

    return lemminflect
