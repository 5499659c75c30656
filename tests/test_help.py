"""The help texts of the verbs and of the configuration keys are plain and complete."""

import re

import pytest

from memo_dist.cli.main import run as run_cli
from memo_dist.config.help import describe
from memo_dist.verbs import VERBS

NOT_PLAIN = re.compile(
    r"\b(nobody|asked|asks|heard|told|tells|silent|wanted|what there is|is no)\b|\ba rank\b"
)
"""Personified programs, headless clauses, and words with a plainer one."""


def help_of(capsys, *words):
    assert run_cli([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_is_plain(capsys, verb):
    text = " ".join(help_of(capsys, verb).split())
    assert f"Usage: memo-dist {verb}" in text
    assert not NOT_PLAIN.search(text)


def test_the_help_of_the_keys_and_the_summaries_is_plain(capsys):
    for text in (describe(), help_of(capsys)):
        assert not NOT_PLAIN.search(text)


def test_launch_shows_the_order_of_its_words(capsys):
    usage = help_of(capsys, "launch").splitlines()[0]
    assert usage == "Usage: memo-dist launch [OPTIONS] TARGET [KEY=VALUE]... -- VERB ..."


def test_no_summary_of_the_study_is_cut(capsys):
    text = help_of(capsys, "scale")
    for name in ("plan", "run", "fit", "status"):
        (line,) = re.findall(rf"^  {name} +(\S.*)$", text, re.MULTILINE)
        assert line.endswith("."), line
        assert not line.endswith("..."), line
