"""docs/security.md names every file that holds text of documents, as the stages have it."""

import re
from pathlib import Path

from memo_dist.stages.records import STAGES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "security.md"


def listed(begin: str, end: str) -> dict[str, set[str]]:
    """{stage: patterns} of the table between two lines."""
    part = PAGE.read_text().split(begin)[1].split(end)[0]
    rows = re.findall(r"^\| ([a-z ]+) \| (`.*) \|$", part, re.MULTILINE)
    return {name: set(re.findall(r"`([^`]+)`", files)) for name, files in rows}


def test_the_files_with_text_are_listed():
    assert listed("As text:", "In another form") == {
        stage.name: set(stage.texts) for stage in STAGES if stage.texts
    }


def test_the_files_with_text_in_another_form_are_listed():
    assert listed("In another form", "## Ports") == {
        stage.name: set(stage.encoded) for stage in STAGES if stage.encoded
    }
