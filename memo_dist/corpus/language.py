"""The language of a document, by py3langid (a naive Bayes model over byte n-grams, offline).

Text without a language of its own (tables of numbers, code, names) has low probabilities for all
languages, and stays without one.
"""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from memo_dist.corpus.parsed import code_lines

_SAMPLE_CHARS = 20_000
_FEWEST_LETTERS = 40
_FEWEST_IDEOGRAMS = 12
_SURE = 0.9
"""Least probability, over 107 languages."""


def language_of(text: str) -> str:
    """ISO 639-1 code of the language of a text (639-3 where it has none); empty where unsure.

    The same text always has the same language. Code between fences is not looked at.
    """
    lines = text[:_SAMPLE_CHARS].split("\n")
    prose = " ".join(line for line, code in zip(lines, code_lines(lines), strict=True) if not code)
    letters = sum(map(str.isalpha, prose))
    wide = sum(1 for character in prose if character >= "\u3040" and character.isalpha())
    if letters < _FEWEST_LETTERS and wide < _FEWEST_IDEOGRAMS:
        return ""
    language, probability = _identifier().classify(prose)
    return str(language) if probability >= _SURE else ""


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
