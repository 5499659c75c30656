"""The rules generator on documents as they are in the wild: code, lists, languages, references."""

from __future__ import annotations

import time

import pytest

from memo_dist.config.schema import SynthesisConfig
from memo_dist.corpus.types import Chunk, Document
from memo_dist.synthesis.rules import RulesGenerator, collect
from memo_dist.synthesis.rules.blocks import read_blocks
from memo_dist.synthesis.types import Reflection, Rejected, Unit

PLAIN = Document("plain", "Norra plant", "The Norra plant opened in 1990 in Brenfeld.")


def unit(*documents: Document) -> Unit:
    chunks = tuple(Chunk(d.id, 0, len(d.text), d.text) for d in documents)
    return Unit("unit-0", 0, documents, chunks, seed=5)


def run(*documents: Document) -> tuple[list[Reflection], list[Rejected]]:
    work = unit(*documents)
    made: list[Reflection] = []
    rejected: list[Rejected] = []
    for step in RulesGenerator(SynthesisConfig(), seed=17).steps().values():
        result = step.run(work, made)
        made += result.reflections
        rejected += result.rejected
    return [row for row in made if row.kind != "abstain"], rejected


def told(text: str, title: str = "Corvell gateway manual", origin: str = "") -> dict[str, str]:
    found, _ = run(Document("d", title, text, origin=origin))
    return {row.question: row.answer for row in found}


def test_joined_expressions_before_a_bracketed_abbreviation_do_not_break_it() -> None:
    facts = told(
        "The service reads formats such as plain text as well as the Portable Form Standard (PFS)."
    )
    assert facts["What does PFS stand for?"] == "Portable Form Standard"


def test_a_document_that_fails_is_named_with_its_sentence_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = collect.nested_facts

    def broken(item, context):
        if "odd" in item.sentence.text:
            raise IndexError("list index out of range")
        return real(item, context)

    monkeypatch.setattr(collect, "nested_facts", broken)
    odd = Document("odd", "Odd things", "The Tarn hall opened in 1991. An odd thing was seen.")
    found, rejected = run(odd, PLAIN)
    assert {row.sources for row in found} == {("plain",)}
    (failure,) = [row for row in rejected if row.reason.startswith(collect.FAILED_DOCUMENT)]
    assert failure.sources == ("odd",)
    assert "IndexError: list index out of range in 'An odd thing was seen.'" in failure.reason
    assert "Traceback" in failure.raw


YAML = """You can set the size of the store:

receivers:
  intake:
    endpoint: intake.example.org:4400
    store_size: 6_000 # default 2000
workers: 4
"""
FENCED = """The Corvell gateway keeps readings for 45 days.

```
Level: debug
Interval: 20 seconds
```
"""
LOG = """2031-05-02T10:00:01 INFO gateway: Started: port 8443
2031-05-02T10:00:02 WARN gateway: Battery: low
"""
SHELL = """$ corvell start --port 8443
Listening: 8443
"""


@pytest.mark.parametrize("text", [YAML, FENCED, LOG, SHELL])
def test_code_logs_and_sample_output_are_no_facts(text: str) -> None:
    answers = " ".join(told(text).values())
    for value in ("4400", "6_000", "debug", "20 seconds", "8443", "low", "4"):
        assert value not in answers.replace("45 days", "").split(), value


def test_prose_around_code_is_still_read() -> None:
    assert "45 days" in told(FENCED).values()


DASHES = """Ports

The program opens three ports:

- `5100` — readings over UDP, the default of most meters
- `5101` — readings over TCP
- `5600` — a test page

Some stores that fit are:

- Bren (which also rotates files)
- Tarn
"""


def test_terms_with_explanations_stay_apart_and_become_facts() -> None:
    facts = told(DASHES, "Ports")
    assert facts["In Ports, what is port 5100?"] == (
        "readings over UDP, the default of most meters"
    )
    assert facts["In Ports, which port is a test page?"] == "5600"
    assert facts["In Ports, which port is for readings over TCP?"] == "5101"
    assert not any("Tarn" in answer or "Bren" in answer for answer in facts.values())


@pytest.mark.parametrize(
    "text",
    [
        "4.1. Valves: Prev; 4.1. Valves: Up; 4.1. Valves: Home; 4.1. Valves: Next",
        "Prev; Up; Next\n3.9. Pipes; Home; 4.2. Taps",
        "Contents\n\n1. Pipes ........ 3\n2. Valves ........ 9",
    ],
)
def test_navigation_is_no_fact(text: str) -> None:
    assert told(f"{text}\n\nA valve holds at most 9 rings.", "Valves") == told(
        "A valve holds at most 9 rings.", "Valves"
    )


def test_marks_of_page_builders_reach_no_question() -> None:
    facts = told(
        "Limits of the feed { #limits-of-the-feed }\n\n/// tip\n\nThe gateway accepts 90 calls a"
        " minute.\n\n///\n\nThe limit was raised in version 2.4. {{% param version %}}",
        "Limits of the feed { #limits-of-the-feed }",
    )
    assert "90 calls" in facts.values()
    said = " ".join([*facts, *facts.values()])
    assert not any(mark in said for mark in ("#", "{", "///", "param"))


ACT = """The notices referred to in paragraphs 2 and 3 shall be kept for five years.
The board shall publish the list referred to in Article 9(4) in March 2031.
Pursuant to Section 12, the board shall meet every six months.
The Meter Board shall be represented by Anna Berg.
"""


def test_legal_cross_references_are_neither_asked_about_nor_answers() -> None:
    facts = told(ACT, "Metering act")
    assert "Anna Berg" in facts.values()
    for word in ("paragraph", "Article", "Section", "referred to"):
        assert not any(word in text for pair in facts.items() for text in pair), word


def start_page(folder: str, port: int) -> Document:
    text = f"The collector listens on port {port}. It keeps readings."
    return Document(folder, "Getting Started", text, origin=f"{folder}/getting-started.md")


def test_pages_of_one_title_are_told_apart_by_their_folder() -> None:
    found, _ = run(start_page("go", 9310), start_page("java", 9410))
    facts = {row.question: row.answer for row in found}
    asked = "In Getting Started ({}), on which port does the collector listen?"
    assert facts[asked.format("go")] == "port 9310"
    assert facts[asked.format("java")] == "port 9410"


@pytest.mark.parametrize(
    "text",
    [
        "Das Gerät liefert 24 Volt. Der Filter muss alle zwei Jahre ersetzt werden.",
        "Le capteur pèse 640 grammes. Il est livré avec une batterie dans la boîte.",
        "El sensor pesa 640 gramos. La batería se carga con el cable en 30 minutos.",
        "装置の重さは640グラムです。電池は18時間もちます。",
        "Laite painaa 640 grammaa. Akku kestää 18 tuntia latausten välillä aina. Anturi tulee"
        " kalibroida vuosittain huollossa. Kotelo avataan vain sammutettuna tilassa.",
    ],
)
def test_another_language_is_refused_aloud_and_never_becomes_nonsense(text: str) -> None:
    found, rejected = run(Document("other", "Anleitung", text), PLAIN)
    assert {row.sources for row in found} == {("plain",)}
    (refusal,) = [row for row in rejected if row.reason.startswith(collect.REFUSED_LANGUAGE)]
    assert refusal.sources == ("other",)


@pytest.mark.parametrize(
    "text",
    [
        "Weight: 640 grams\nWarranty: 24 months\nCharging time: 30 minutes",
        "Part: A7; Price: 30 EUR\nPart: A8; Price: 45 EUR\nPart: A9; Price: 60 EUR",
        "The Müller plant in São Paulo was opened by the Société du Nord on 2 May 1990.",
    ],
)
def test_english_tables_and_foreign_names_are_read(text: str) -> None:
    assert told(text)


@pytest.mark.parametrize(
    "text",
    [
        "Matteo: I would like to see this done\nMyles: a fan of this",
        "Note: the pump\nExample: a valve",
        "Recording: https://example.org/watch\nIssue: #4711",
        "We keep readings for 45 days.",
        "This means that it takes 45 days.",
        "If possible, submit early.",
    ],
)
def test_remarks_and_what_points_elsewhere_are_not_asked(text: str) -> None:
    assert told(text, "Minutes of the meeting") == {}


def test_a_document_is_parsed_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = collect.read_document
    monkeypatch.setattr(collect, "read_document", lambda d: parsed.append(d.id) or real(d))
    steps = RulesGenerator(SynthesisConfig(), seed=17).steps().values()
    made: list[Reflection] = []
    others = [Document(f"d{n}", "Norra plant", f"{PLAIN.text} {n}.") for n in range(100)]
    for step in steps:
        for document in (PLAIN, *others):
            made += step.run(unit(document), made[:1]).reflections
    assert len(parsed) == len(set(parsed)) == 101


@pytest.mark.parametrize(
    "part", ["{%", "{{<", "{#a", "a{=", "`", ":", "1", ".", " .", "aas of aas ", "a -- ", "a: b; "]
)
def test_the_time_for_one_long_line_grows_with_its_length_only(part):
    line = part * (400_000 // len(part))
    started = time.process_time()
    read_blocks(f"Ports:\n\n{line}\n\n{line}:\n- a - b\n- c - d\n")
    assert time.process_time() - started < 10
