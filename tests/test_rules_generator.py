"""The rules generator as its users see it: reflections of small documents."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.schema import SynthesisConfig
from memo_dist.corpus.types import Chunk, Document
from memo_dist.synthesis.dated import date_conflicts
from memo_dist.synthesis.rules import RulesGenerator, abstain, collect
from memo_dist.synthesis.types import Reflection, Rejected, Unit

MANUAL = Document(
    "manual",
    "Brovik 12 user manual",
    """Introduction

The Brovik 12 is a portable dust monitor made by Halden Instruments.
It was introduced in April 2029.
It weighs 640 grams and runs for 18 hours on one charge.

Technical data

Warranty: 24 months
Operating temperature: -10 °C to 50 °C

Use

Press the green button for three seconds. If the display stays dark, charge the device for at
least 30 minutes. The sensor must be calibrated every 12 months by an authorised service centre.

Code: E1; Meaning: sensor fault
Code: E4; Meaning: battery too low
""",
    "2029-05-02",
)
HISTORY = Document(
    "history",
    "History of Halden Instruments",
    """Halden Instruments was founded in 1987 by Jan Kolar and Petra Vesela in a rented garage.
In 1994 the company moved to its present site in Poruba. Kolar led the company until 2012.
He was succeeded by Milena Dvorak, who had joined the firm in 2003.
The chief engineer, Ivo Hanak, retired last year. Halden Instruments employs 430 people.
""",
    "2031-01-15",
)
POLICY = Document(
    "policy",
    "Travel policy",
    """This policy took effect on 1 March 2030. Receipts must be submitted within 30 days.
Employees travel in economy class because the budget is limited. Business class is allowed if the
flight takes more than six hours.
""",
)


def unit(*documents: Document, chunks: tuple[Chunk, ...] = ()) -> Unit:
    whole = tuple(Chunk(d.id, 0, len(d.text), d.text) for d in documents)
    return Unit("unit-0", 3, documents, chunks or whole, seed=5)


def run(work: Unit, settings: SynthesisConfig | None = None) -> list[Reflection]:
    made: list[Reflection] = []
    for step in RulesGenerator(settings or SynthesisConfig(), seed=17).steps().values():
        made += step.run(work, made).reflections
    return made


def rejected(*documents: Document) -> list[Rejected]:
    return (
        RulesGenerator(SynthesisConfig(), 17).steps()["direct"].run(unit(*documents), []).rejected
    )


@pytest.fixture(scope="module")
def reflections() -> list[Reflection]:
    return run(unit(MANUAL, HISTORY, POLICY))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the Brovik 12 introduced?", "April 2029"),
        ("How much does the Brovik 12 weigh?", "640 grams"),
        ("What is the warranty of the Brovik 12?", "24 months"),
        ("What is the meaning of code E4?", "battery too low"),
        ("Which code has the meaning sensor fault?", "E1"),
        ("Who makes the Brovik 12?", "Halden Instruments"),
        ("When did Halden Instruments move to its present site in Poruba?", "1994"),
        ("Who succeeded Kolar?", "Milena Dvorak"),
        ("How many people does Halden Instruments employ?", "430 people"),
        ("When did the travel policy take effect?", "1 March 2030"),
        ("Within how many days must receipts be submitted?", "30 days"),
    ],
)
def test_states_the_facts_of_a_text(
    reflections: list[Reflection], question: str, answer: str
) -> None:
    told = {item.question: item.answer for item in reflections}
    if question not in told:  # a wording may carry its document's name
        told = {re.sub(r" ?,? according to.*(?=\?)", "", q, flags=re.I): a for q, a in told.items()}
    core = question[0].lower() + question[1:]
    found = [a for q, a in told.items() if core in q or question == q]
    assert answer in found


def test_asks_for_reasons_conditions_intervals_and_instructions(
    reflections: list[Reflection],
) -> None:
    answers = {item.answer for item in reflections}
    assert "because the budget is limited" in answers
    assert "if the flight takes more than six hours" in answers
    assert "every 12 months" in answers
    assert "three seconds" in answers
    assert "at least 30 minutes" in answers


def test_reverse_questions_ask_for_the_subject(reflections: list[Reflection]) -> None:
    reverse = {item.question: item.answer for item in reflections if item.kind == "indirect"}
    asked = [q for q, a in reverse.items() if a == "Halden Instruments"]
    assert any("employs 430 people" in q or "moved to its present site" in q for q in asked)
    assert not any("Halden Instruments" in q for q in asked)


def test_a_role_in_a_phrase_is_a_fact(reflections: list[Reflection]) -> None:
    assert any(
        "who is the chief engineer" in item.question.lower() and item.answer == "Ivo Hanak"
        for item in reflections
    )


def test_relative_time_is_grounded_in_the_documents_date(reflections: list[Reflection]) -> None:
    retired = [item for item in reflections if "retire" in item.question]
    assert "2030" in {item.answer for item in retired}
    assert not any("last year" in f"{item.question} {item.answer}" for item in retired)


def test_no_pronoun_is_left_without_its_noun(reflections: list[Reflection]) -> None:
    loose = re.compile(r"\b(it|he|she|him|they|we|i|this|these)\b", re.IGNORECASE)
    for item in reflections:
        question = item.question.replace("is it that", "").replace("was it that", "")
        question = question.replace("I would like", "").replace(" my ", " ").replace(" I ", " ")
        if item.kind != "abstain":
            assert not loose.search(question.split(" because ")[0]), item.question


def test_a_question_has_one_answer(reflections: list[Reflection]) -> None:
    answers: dict[str, set[str]] = {}
    for item in reflections:
        answers.setdefault(item.question, set()).add(item.answer)
    assert [q for q, found in answers.items() if len(found) > 1] == []
    assert len({item.id for item in reflections}) == len(reflections)


def test_answers_are_short_and_clean(reflections: list[Reflection]) -> None:
    for item in reflections:
        if item.kind != "abstain":
            assert 1 <= len(item.answer.split()) <= 20
            assert not item.answer.endswith((".", ",", ";", ":"))
        assert item.question[0].isupper() or not item.question[0].isalpha()
        assert item.question.endswith(("?", "."))


def test_paraphrases_reword_a_reflection_and_keep_its_answer(
    reflections: list[Reflection],
) -> None:
    by_id = {item.id: item for item in reflections}
    wordings: dict[str, set[str]] = {}
    for item in reflections:
        if item.kind == "paraphrase":
            assert item.parent is not None
            parent = by_id[item.parent]
            assert parent.kind in {"direct", "indirect"}
            assert (item.answer, item.sources, item.chunks) == (
                parent.answer,
                parent.sources,
                parent.chunks,
            )
            wordings.setdefault(item.parent, {parent.question}).add(item.question)
    facts = [item for item in reflections if item.kind in {"direct", "indirect"}]
    rich = [item for item in facts if len(wordings.get(item.id, ())) >= 3]
    assert len(rich) >= 0.9 * len(facts)
    openings = {q.split()[0] for q in wordings[facts[0].id]}
    assert len(openings) >= 2


def test_phrasings_limits_the_wordings_and_only_inputs_are_reworded() -> None:
    steps = RulesGenerator(SynthesisConfig(phrasings=2), 17).steps()
    work = unit(HISTORY)
    direct = steps["direct"].run(work, []).reflections
    made = steps["paraphrase"].run(work, direct[:3]).reflections
    assert {item.parent for item in made} <= {item.id for item in direct[:3]}
    assert len(made) <= 3
    assert steps["paraphrase"].run(work, []).reflections == []


def test_provenance_is_filled_in(reflections: list[Reflection]) -> None:
    dates = {d.id: d.date for d in (MANUAL, HISTORY, POLICY)}
    for item in reflections:
        assert item.shard == 3
        assert item.generator.startswith("rules-")
        assert re.fullmatch(r"[0-9a-f]{16}", item.request)
        if item.kind != "abstain":
            (source,) = item.sources
            assert item.as_of == dates[source]
            assert item.chunks[0].startswith(f"{source}:")
    assert len({item.request for item in reflections}) == 4  # one a step


def test_the_request_changes_with_the_documents() -> None:
    changed = Document(POLICY.id, POLICY.title, POLICY.text.replace("30 days", "20 days"))
    first, second = run(unit(POLICY))[0], run(unit(changed))[0]
    assert first.request != second.request


def test_equal_units_give_equal_reflections(reflections: list[Reflection]) -> None:
    again = run(unit(MANUAL, HISTORY, POLICY))
    assert [item.to_json() for item in again] == [item.to_json() for item in reflections]


def test_overlapping_chunks_give_no_duplicates_and_cite_the_first_that_holds_the_fact() -> None:
    text = HISTORY.text
    cut = text.index("Kolar led")
    early = text.index("In 1994")
    chunks = (
        Chunk("history", 0, cut, text[:cut]),
        Chunk("history", early, len(text), text[early:]),
    )
    whole = run(unit(HISTORY))
    overlapped = run(unit(HISTORY, chunks=chunks))
    assert [item.question for item in overlapped] == [item.question for item in whole]
    moved = next(item for item in overlapped if item.answer == "1994")
    led = next(item for item in overlapped if item.answer == "Milena Dvorak")
    assert moved.chunks == (chunks[0].id,)
    assert led.chunks == (chunks[1].id,)


def test_what_cannot_stand_alone_is_rejected_with_a_reason() -> None:
    lone = Document(
        "lone", "Notes", "They agreed on it yesterday. She refused the offer in May 2020."
    )
    found = rejected(lone)
    assert found
    assert {"unresolved pronoun", "no question fits"} & {item.reason for item in found}
    assert all(item.sources == ("lone",) and item.raw for item in found)


def test_two_answers_to_one_question_are_rejected_as_ambiguous() -> None:
    one = Document("one", "North plant", "The Norra plant opened in 1990.")
    two = Document("two", "South plant", "The Norra plant opened in 1995.")
    work = unit(one, two)
    result = RulesGenerator(SynthesisConfig(), 1).steps()["direct"].run(work, [])
    assert not any(item.question == "When did the Norra plant open?" for item in result.reflections)
    assert any(item.reason == "ambiguous in unit" for item in result.rejected)


def test_answers_of_different_dates_stay_with_their_wordings() -> None:
    old = Document("old", "Norra plant", "The Norra plant opened in 1990.", "2031-01-02")
    new = Document("new", "Norra plant", "The Norra plant opened in 1995.", "2032-01-02")
    asked = "When did the Norra plant open?"
    steps = RulesGenerator(SynthesisConfig(), 1).steps()
    result = steps["direct"].run(unit(old, new), [])
    found = {row.answer: row for row in result.reflections if row.question == asked}
    assert {answer: row.as_of for answer, row in found.items()} == {
        "1990": "2031-01-02",
        "1995": "2032-01-02",
    }
    reworded = steps["paraphrase"].run(unit(old, new), result.reflections).reflections
    assert {row.parent for row in reworded} >= {row.id for row in found.values()}
    questions = {row.question for row in date_conflicts(result.reflections, str.casefold)}
    assert questions >= {asked, "As of 2 January 2031, when did the Norra plant open?"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\n ",
        '?!... ((( ]]] " “ ’s',
        "word " * 3000,
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "1999\n- \n* \n1.\n: \nA: \n;;;; \t\t",
        "漢字 und ein deutscher Satz, der keiner Regel folgt.",
        "and , that which of 's it I",
    ],
)
def test_odd_texts_do_not_break_it(text: str) -> None:
    odd = Document("odd", "", text)
    run(unit(odd, POLICY))


def test_abstain_examples_ask_for_what_no_document_tells(reflections: list[Reflection]) -> None:
    abstain = [item for item in reflections if item.kind == "abstain"]
    facts = [item for item in reflections if item.parent is None and item.kind != "abstain"]
    assert len(abstain) == pytest.approx(0.15 * len(facts), abs=1)
    assert {item.answer for item in abstain} == {ABSTAIN_ANSWER}
    asked = {item.question for item in reflections if item.kind != "abstain"}
    assert not asked & {item.question for item in abstain}
    assert any(item.sources == () for item in abstain)
    assert any(item.sources for item in abstain)


def test_a_document_is_read_once_a_step_beyond_the_cache(monkeypatch, reflections) -> None:
    reads: list[str] = []
    read = collect.document_facts
    monkeypatch.setattr(collect, "document_facts", lambda d: reads.append(d.id) or read(d))
    for kept_chars, times in ((8_000_000, 1), (0, 4)):
        generator = RulesGenerator(SynthesisConfig(), seed=17)
        generator.read = collect.FactReader(kept_chars)
        made: list[Reflection] = []
        reads.clear()
        for step in generator.steps().values():
            made += step.run(unit(MANUAL, HISTORY, POLICY), made).reflections
        assert sorted(reads) == sorted(["manual", "history", "policy"] * times)
        assert made == reflections


def _plainly_swapped(documents: list[collect.DocumentFacts]) -> list[abstain.Unanswerable]:
    """As :func:`abstain._swapped` is defined, pair by pair."""
    entities, found = list(abstain._entities(documents)), []
    for fact in (fact for facts in documents for fact in facts.facts):
        owner = next((e for _, e in entities if e.name == fact.about), None)
        if owner is None or fact.kind != "direct" or fact.attribute in abstain._TOO_COMMON:
            continue
        question = abstain._shortest(fact)
        for index, other in entities:
            same = (other.kind, other.plural) == (owner.kind, owner.plural)
            if not question or other is owner or not same or other.name in question:
                continue
            words = abstain._words(other.name)
            names = {w for w in words if len(w) > 2} or set(words)
            texts = [abstain._document_words(f"{f.document.title} {f.document.text}")
                     for f in documents]  # fmt: skip
            near = set().union(*(text for text in texts if names & text))
            if not abstain._related(fact.attribute) & near:
                text = abstain._fill(question.replace(fact.about, "{X}"), other.name)
                found.append(abstain.Unanswerable(text, index))
    return found


def test_what_stands_near_an_entity_is_sought_once(monkeypatch) -> None:
    sought: list[str] = []
    naming = abstain._Surroundings._naming
    monkeypatch.setattr(
        abstain._Surroundings,
        "_naming",
        lambda self, name: sought.append(name) or naming(self, name),
    )
    documents = [collect.document_facts(d) for d in (MANUAL, HISTORY, POLICY, _works())]
    expected = _plainly_swapped(documents)
    assert len(expected) > 20
    assert list(abstain._swapped(documents)) == expected
    assert len(sought) == len(set(sought)), "once for each entity, however many facts there are"


def _works() -> Document:
    """Firms and their founders, in a text with many entities of one kind."""
    names = ("Ada Moss", "Ben Carr", "Cora Finch", "Dan Holt", "Eve Lund", "Fay Marsh")
    lines = [f"{name} founded the Tarn{n} mill in {1901 + n}." for n, name in enumerate(names)]
    return Document("works", "Mills", " ".join(lines))


def test_an_attribute_that_is_told_is_never_an_abstain_question() -> None:
    born = Document(
        "born",
        "Petra Vesela",
        "Petra Vesela was born on 2 May 1950. She is married to Jan Kolar and lives in Brno. "
        "She studied at the University of Brno. She has two children.",
    )
    settings = SynthesisConfig(abstain_fraction=20.0)
    asked = [item.question for item in run(unit(born), settings) if item.kind == "abstain"]
    about = [q for q in asked if "Petra Vesela" in q]
    assert about
    for told in ("born", "married", "children", "school", "address"):
        assert not any(told in q for q in about), told


def test_an_invented_name_differs_from_every_name_of_the_unit() -> None:
    settings = SynthesisConfig(abstain_fraction=20.0)
    work = unit(MANUAL, HISTORY)
    made = run(work, settings)
    asked = {item.question for item in made if item.kind != "abstain"}
    assert all(item.question not in asked for item in made if item.kind == "abstain")
    assert not any("code E" in item.question for item in made if item.kind == "abstain")


def test_it_says_what_it_cannot_do() -> None:
    generator = RulesGenerator(SynthesisConfig(), 1)
    assert list(generator.steps()) == ["direct", "indirect", "paraphrase", "abstain"]
    said = " ".join(generator.limits())
    for step in ("consolidate", "verify", "entities", "cross"):
        assert step in said


def test_importing_it_loads_no_model() -> None:
    code = (
        "import sys, memo_dist.synthesis.rules as e; "
        "print([m for m in ('torch', 'HanTa', 'pysbd', 'lemminflect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_amount_is_also_asked_in_words_typed_into_a_search_box() -> None:
    told = {item.question: item.answer for item in run(unit(MANUAL)) if item.kind != "abstain"}
    assert told["Brovik 12 weigh, how much?"] == "640 grams"


def test_the_company_is_the_one_that_the_title_names() -> None:
    overview = Document(
        "overview",
        "Marrow Metering Company at a glance",
        "The Marrow Metering Company makes meters. The Marrow Family Foundation holds 61 percent of"
        " the shares. The company is supervised by the Corvell Authority.",
    )
    told = {item.question: item.answer for item in run(unit(overview))}
    assert told["By which authority is the Marrow Metering Company supervised?"] == (
        "the Corvell Authority"
    )
