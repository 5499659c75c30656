"""The language model steps with scripted replies: parsing, rejection, rewriting, provenance."""

import json

import jsonschema
import pytest
from llm_cases import (
    BORN,
    MILL,
    NO_LOOP,
    OPENED,
    PELL,
    WHERE,
    facts,
    pair,
    reasons,
    row,
    settings,
    step,
    talk,
    texts,
    unit,
    user,
    wordings,
)

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.corpus.types import Document
from memo_dist.llm.schemas import ANCHORED, limited, text_of
from memo_dist.synthesis.agreement import agree
from memo_dist.synthesis.clean import Candidate, clean
from memo_dist.synthesis.coverage import evidence_of
from memo_dist.synthesis.prompted import extract
from memo_dist.synthesis.prompted import manners as manners_module
from memo_dist.synthesis.prompted.anchors import anchors_of
from memo_dist.synthesis.prompted.manners import manners
from memo_dist.synthesis.prompted.reading import Passage, readings
from memo_dist.synthesis.prompted.step import by_reading
from memo_dist.synthesis.types import in_force

# -- extraction ------------------------------------------------------------------------------------


def test_a_fact_is_its_first_good_question_and_the_others_are_its_wordings():
    over = unit(MILL)
    rows = [
        row("1926", "When was it?", "When was  Hollin Mill opened?", "hollin mill opening year"),
        row("340", "How many people work at Hollin Mill?", passage=9),
        row(" ", "When was Hollin Mill opened?"),
        row("not stated", "Who owns Hollin Mill?"),
        row("N/A.", "Who sold Hollin Mill?"),
        row("paper mill", "Is Hollin Mill a paper mill?"),
        row("Ada Pell", "Who built the Zorbit Tower?", "Who opened Hollin Mill in 1931?"),
        row("1926", "When was Hollin Mill opened?"),
        row("1971", "When was Hollin Mill opened?"),
    ]
    result, (request,) = talk(step("direct", NO_LOOP), [], facts(*rows), over=over)
    first, second = result.reflections
    assert (first.question, first.kind, first.sources, first.answer) == (
        "When was Hollin Mill opened?",
        "direct",
        ("mill",),
        "1926",
    )
    assert first.chunks == (over.chunks[0].id,)
    assert (first.request, first.generator) == (request.key, "toy-model 2")
    assert first.prompt_version == step("direct", NO_LOOP).version
    assert first.as_of == "2031-03-14"
    assert (second.question, second.kind, second.parent, second.answer) == (
        "hollin mill opening year",
        "paraphrase",
        first.id,
        "1926",
    )
    assert reasons(result) == [
        "pronoun without a name",
        "no such passage",
        "empty",
        "abstains",
        "abstains",
        "answer in the question",
        "names what the text does not",
        "numbers that the text does not have",
        "asked already, with another answer",
    ]


def test_questions_in_the_manners_of_people_are_taken():
    questions = [
        "Tell me who opened Hollin Mill, please.",
        "hollin mill opened by whom",
        "I'm new here. Remind me whose mill it was that opened in Garrow in 1926?",
        "My aunt worked at Hollin Mill, was it hers or who opened it?",
        "Name the person behind the paper mill in Garrow.",
        "Hollin Mill has 340 workers. Which woman got it going?",
        "Somebody asks: who do they say started Hollin Mill?",
    ]
    result, _ = talk(
        step("direct", NO_LOOP), [], facts(row("Ada Pell", *questions)), over=unit(MILL)
    )
    assert [item.question for item in result.reflections] == questions
    assert not result.rejected


def test_no_more_questions_than_set_and_their_manners_take_turns():
    subject = step("direct", "synthesis.phrasings=3", NO_LOOP)
    asked = [f"What is number {word} of Hollin Mill?" for word in ("one", "two", "three", "four")]
    result, (request,) = talk(subject, [], facts(row("1926", *asked)), over=unit(MILL))
    assert len(result.reflections) == 3
    questions = json.loads(request.schema)["properties"]["facts"]["items"]["properties"]
    assert questions["questions"]["maxItems"] == 3
    assert "3 questions" in user(request)
    firsts = {tuple(manners(4, turn)) for turn in range(40)}
    assert len(firsts) > 5
    assert all(some[0].startswith("plain") for some in firsts)
    assert {line for some in firsts for line in some} == {*manners(14, 0)}


def test_a_failed_request_loses_its_own_document_only():
    good = facts(row("Garrow", "Where was Ada Pell born?"))
    result, sent = talk(step("direct", NO_LOOP), [], "finish_reason length", good)
    assert len(sent) == 2
    assert [item.sources for item in result.reflections] == [("pell",)]


def test_what_follows_may_bring_numbers_of_its_own():
    reply = facts(
        row("25", "How old was Ada Pell in 1926?"),
        row("26", "How old was Ada Pell in 1927?"),
    )
    result, _ = talk(step("indirect"), [], reply, over=unit(PELL))
    assert [item.kind for item in result.reflections] == ["indirect", "indirect"]


def test_what_a_reflection_tells_is_read_once_for_each_further_round(monkeypatch):
    read = []

    def evidence(row):
        read.append(row)
        return evidence_of(row)

    monkeypatch.setattr(extract, "evidence_of", evidence)
    subject = step("direct", "synthesis.facts_per_call=4", "synthesis.coverage_rounds=1")
    one = facts(row("1926", "When was Hollin Mill opened?"))
    other = facts(row("340", "How many workers has Hollin Mill?"))
    result, sent = talk(subject, [], one, other, facts(), facts(), over=unit(MILL))
    assert len(sent) == 4
    assert read == list(result.reflections)


def test_a_pair_of_several_readings_belongs_to_the_first():
    text = " ".join(f"Hall {n} of the mill holds {'many ' * 25}rolls." for n in range(3))
    config = settings("corpus.chunk_chars=200", "corpus.overlap_sentences=0")
    over = unit(Document("halls", "Halls", text), config=config)
    ids = [chunk.id for chunk in over.chunks]
    parts = readings(over, 400)
    assert [len(part.passages) for part in parts] == [2, 1]
    rows = [
        pair(f"Q{at}?", "x", chunks=chunks)
        for at, chunks in enumerate(
            ((ids[2], ids[1]), (ids[0],), (ids[2],), (ids[1], ids[0]), ("other:0-9",))
        )
    ]
    found = by_reading(iter(parts), rows)
    assert [[(number, row.question) for number, row in mine] for _, mine in found] == [
        [(1, "Q1?"), (1, "Q3?"), (2, "Q0?")],
        [(1, "Q2?")],
    ]


def test_a_long_text_is_asked_about_part_by_part_with_all_of_it_as_context():
    subject = step("direct", "synthesis.facts_per_call=4", NO_LOOP)
    result, sent = talk(subject, [], facts(), facts(), over=unit(MILL))
    blocks = [user(request).split(" sentences ===")[1] for request in sent]
    assert all(user(request).count(MILL.text) == 1 for request in sent)
    assert "It was opened in 1926" in blocks[0]
    assert "It was opened in 1926" not in blocks[1]
    assert "closed its dye house" in blocks[1]
    assert not result.reflections


def test_what_is_not_covered_is_asked_for_again_until_it_is():
    some = facts(row("1926, Ada Pell", "When and by whom was Hollin Mill opened?"))
    rest = facts(
        row("paper mill in Garrow, big", "What kind of mill is Hollin Mill?"),
        row("340", "How many workers has Hollin Mill, its dye house closed in 1971?"),
    )
    subject = step("direct", "synthesis.coverage_rounds=5")
    result, sent = talk(subject, [], some, rest, over=unit(MILL))
    again = user(sent[1])
    assert "It was opened in 1926" not in again.split(" sentences ===")[1]
    assert "[passage 1] The mill has 340 workers" in again
    assert "1926, Ada Pell" in again.split(" answers ===")[1]
    assert len(result.reflections) == 3
    few = step("direct", "synthesis.coverage=0.1")
    assert len(talk(few, [], rest, over=unit(MILL))[1]) == 1
    stubborn = step("direct", "synthesis.coverage_rounds=2")
    assert len(talk(stubborn, [], facts(), facts(), facts(), over=unit(MILL))[1]) == 3


def test_a_full_reply_is_asked_on():
    subject = step("direct", "synthesis.facts_per_call=9", "synthesis.coverage=0")
    full = facts(*(row("1926", f"In what year, {word}, was it?") for word in "abcdefghi"))
    _, sent = talk(subject, [], full, facts(), over=unit(MILL))
    assert len(sent) == 2


def test_anchored_extraction_gives_the_answers_and_matches_them_by_text():
    config = ("synthesis.extraction=anchored", "synthesis.phrasings=2", NO_LOOP)
    over = unit(MILL)
    anchors = [item.text for item in anchors_of(Passage(1, MILL, over.chunks[0]), 0)]
    assert {"1926", "Ada Pell", "340 workers", "dye house", "Garrow"} <= set(anchors)
    assert "Hollin Mill" not in anchors
    opened = {"answer": "In 1926.", "questions": ["When was Hollin Mill opened?"]}
    exact = {"answer": "the 1926", "questions": ["In what year did Hollin Mill open?", "x", "y"]}
    replies = [facts(exact, opened) if text == "1926" else facts() for text in anchors]
    result, sent = talk(step("direct", *config), [], *replies, over=over)
    assert len(sent) == len(anchors)
    assert texts(result.reflections)[0] == ("In what year did Hollin Mill open?", "1926")
    assert len(result.reflections) == 2
    assert reasons(result) == ["no listed answer"]
    request = sent[anchors.index("1926")]
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    jsonschema.validate(
        json.loads(request.messages[2].content),
        json.loads(text_of(limited(ANCHORED, 2, 2, 2))),
    )


def test_anchors_are_asked_again_until_they_have_their_questions():
    config = ("synthesis.extraction=anchored", "synthesis.phrasings=2", "synthesis.anchors=1")
    (anchor,) = anchors_of(Passage(1, MILL, unit(MILL).chunks[0]), 1)
    one, two = (
        facts({"answer": anchor.text, "questions": [question]})
        for question in ("What stands at Hollin Mill?", "Hollin Mill, what is that?")
    )
    subject = step("direct", *config, "synthesis.coverage_rounds=5")
    result, sent = talk(subject, [], one, one, two, over=unit(MILL))
    assert len(result.reflections) == 2
    assert "write 1 questions" in user(sent[1])
    several = step("direct", *config[:2], "synthesis.anchors_per_call=99", NO_LOOP)
    assert len(talk(several, [], facts(), over=unit(MILL))[1]) == 1


# -- merging ---------------------------------------------------------------------------------------


def merge(numbers, question="When and where was Hollin Mill opened?", answer="1926, Garrow"):
    return {"merges": numbers, "question": question, "answer": answer}


def test_consolidation_joins_pairs_of_one_document():
    values = [merge([2, 1]), merge([1, 3]), merge([1]), merge([1, 7]), merge([1, 2], answer=" ")]
    inputs = [OPENED, WHERE, BORN, pair("Who won?", ABSTAIN_ANSWER, "abstain")]
    result, (request,) = talk(step("consolidate"), inputs, {"pairs": values})
    (made,) = result.reflections
    assert (made.kind, made.sources, made.chunks) == ("consolidated", ("mill",), OPENED.chunks)
    assert reasons(result) == [*["merges no two listed pairs"] * 3, "empty"]
    assert "2. [passage 1] Where is Hollin Mill? -> Garrow" in user(request)
    assert "Who won?" not in user(request)
    assert talk(step("consolidate"), [OPENED])[1] == []


def test_cross_joins_documents_and_keeps_all_sources():
    found = step("cross").groups(0, [OPENED, WHERE, BORN])
    assert [group.documents for group in found] == [("mill", "pell")]
    rows = {item.id: item for item in (OPENED, WHERE, BORN)}
    inputs = [rows[name] for name in found[0].reflections]
    mine, theirs = (
        next(i for i, item in enumerate(inputs, 1) if item.sources == (name,))
        for name in ("mill", "pell")
    )
    asked = ["Which mill stands where Ada Pell was born?", "ada pell birthplace mill"]
    values = [
        {"merges": pair, "bridge": bridge, "answer": answer, "questions": questions}
        for pair, bridge, answer, questions in (
            ([mine, theirs], "Garrow", "Hollin Mill", asked),
            ([mine, theirs], "", "Garrow", ["Is Hollin Mill in Garrow?"]),
            ([mine, mine], "", "Hollin Mill", asked),
        )
    ]
    result, _ = talk(step("cross"), inputs, {"facts": values})
    made, reworded = result.reflections
    assert (reworded.kind, reworded.parent, reworded.sources) == (
        "paraphrase",
        made.id,
        made.sources,
    )
    assert (made.kind, made.sources) == ("cross", ("mill", "pell"))
    assert made.bridge == reworded.bridge == "Garrow"
    assert made.chunks == tuple(sorted({*OPENED.chunks, *BORN.chunks}))
    assert made.as_of is None or made.as_of == "2031-03-14"
    assert reasons(result) == ["answer in the question", "merges no two listed pairs"]


@pytest.mark.parametrize("bridge", ["", "Hollin Mill", "Castle Orrin"])
def test_a_bridge_that_is_the_answer_or_is_not_stated_is_not_taught(bridge):
    found = step("cross").groups(0, [OPENED, WHERE, BORN])
    inputs = [{item.id: item for item in (OPENED, WHERE, BORN)}[n] for n in found[0].reflections]
    numbers = [
        next(i for i, p in enumerate(inputs, 1) if p.sources == (n,)) for n in ("mill", "pell")
    ]
    asked = ["Which mill stands where Ada Pell was born?"]
    value = {"merges": numbers, "bridge": bridge, "answer": "Hollin Mill", "questions": asked}
    result, _ = talk(step("cross"), inputs, {"facts": [value]})
    assert [row.bridge for row in result.reflections] == [None]


# -- verification ----------------------------------------------------------------------------------


def verdict(number, word, **more):
    return {"pair": number, "verdict": word, **more}


def test_verify_keeps_rewrites_and_drops():
    vague = pair("When was it opened?", "1926")
    wrong = pair("How many workers has Hollin Mill?", "900")
    unsure = pair("Who opened Hollin Mill?", "Ada Pell")
    abstained = pair("Who won?", ABSTAIN_ANSWER, "abstain")
    mended = {"question": "When was Hollin Mill opened?", "answer": "1926"}
    first = {
        "verdicts": [
            verdict(1, "keep"),
            verdict(2, "rewrite", **mended),
            verdict(3, "drop", problem="wrong number"),
        ]
    }
    second = {"verdicts": [verdict(1, "keep")]}
    inputs = [WHERE, vague, wrong, unsure, abstained]
    result, sent = talk(step("verify"), inputs, first, second)
    kept = {item.question: item for item in result.reflections}
    assert set(kept) == {WHERE.question, mended["question"], unsure.question, "Who won?"}
    assert kept[WHERE.question] == WHERE
    rewritten = kept[mended["question"]]
    assert (rewritten.parent, rewritten.kind) == (vague.id, "direct")
    assert rewritten.request == sent[0].key
    assert rewritten.prompt_version == step("verify").version
    assert rewritten.chunks == vague.chunks
    assert reasons(result) == ["verify: dropped: wrong number"]
    assert "(suspected: pronoun without a name)" in user(sent[0])
    assert "Who opened" in user(sent[1])
    assert "Where is" not in user(sent[1])


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("When was it opened?", "1926", "pronoun without a name"),
        ("When was the mill in the text opened?", "1926", "refers to the text"),
        ("When was Hollin Mill opened?", "1931", "answer not in the text"),
        ("When was Zorbit Tower opened?", "1926", "names what the text does not"),
    ],
)
def test_a_rewrite_must_pass_the_rules_too(question, answer, reason):
    reply = {"verdicts": [verdict(1, "rewrite", question=question, answer=answer)]}
    result, _ = talk(step("verify"), [WHERE], reply)
    assert reasons(result) == [f"verify: rewritten with: {reason}"]
    assert not result.reflections


def test_what_was_never_judged_is_in_quarantine():
    result, _ = talk(step("verify"), [WHERE], {"verdicts": []}, {"verdicts": []})
    assert reasons(result) == ["verify: no verdict"]
    result, _ = talk(step("verify"), [WHERE], "HTTP 500")
    assert reasons(result) == ["verify: not judged: HTTP 500"]


def test_verify_replaces_the_steps_before_it():
    assert in_force(["direct", "verify", "cross"], str) == ["verify", "cross"]
    assert in_force(["direct", "verify", "roundtrip", "cross"], str) == ["roundtrip", "cross"]
    assert in_force(["direct", "cross"], str) == ["direct", "cross"]


def test_wordings_share_the_fate_of_their_fact():
    vague, gone = pair("When was it opened?", "1931"), pair("How many workers has it?", "900")
    children = [
        pair(f"In other words, {row.question}", row.answer, "paraphrase", parent=row.id)
        for row in (vague, gone)
    ]
    mended = {"question": "When was Hollin Mill opened?", "answer": "1926"}
    verdicts = [verdict(1, "rewrite", **mended), verdict(2, "drop", problem="wrong")]
    result, (request,) = talk(step("verify"), [vague, gone, *children], {"verdicts": verdicts})
    assert "In other words" not in user(request)
    fact, wording = result.reflections
    assert (wording.answer, wording.fact) == ("1926", fact.fact)
    assert reasons(result) == ["verify: dropped: wrong", "verify: its fact was dropped"]


def test_pairs_share_calls():
    many = [pair(f"What is item {n} of Hollin Mill?", f"{n} workers") for n in range(90)]
    replies = [{"verdicts": [verdict(n, "keep") for n in range(1, 41)]}] * 3
    _, sent = talk(step("verify"), many, *replies)
    assert len(sent) == 3


# -- entities, wordings, abstention ----------------------------------------------------------------


def test_an_entity_question_never_names_its_answer():
    reply = facts(
        row("Hollin Mill", "Which mill was opened in 1926?"),
        row("the Hollin Mill", "What kind of mill is Hollin Mill?"),
    )
    result, _ = talk(step("entities"), [], reply, over=unit(MILL))
    assert [(item.kind, item.answer) for item in result.reflections] == [("entity", "Hollin Mill")]
    assert reasons(result) == ["answer in the question"]


def test_facts_that_lack_wordings_get_them():
    first = wordings(
        "In what year was Hollin Mill opened?",
        "when was hollin mill opened",
        "When, in 1972, was Hollin Mill opened?",
        "When was it opened?",
    )
    second = wordings("Hollin Mill opened when?", "The opening of Hollin Mill, please?")
    result, sent = talk(step("paraphrase", "synthesis.phrasings=3"), [OPENED], first, second)
    assert [item.question for item in result.reflections] == [
        "In what year was Hollin Mill opened?",
        "Hollin Mill opened when?",
    ]
    for item in result.reflections:
        assert (item.kind, item.parent, item.answer) == ("paraphrase", OPENED.id, "1926")
    assert reasons(result) == ["numbers that the text does not have", "pronoun without a name"]
    assert "2 other questions" in user(sent[0])


def test_facts_with_most_of_their_wordings_are_left_alone():
    subject = step("paraphrase", "synthesis.phrasings=4")
    child = [pair(text, "1926", "paraphrase", parent=OPENED.id) for text in ("opened?", "year?")]
    assert talk(subject, [OPENED, *child])[1] == []
    assert len(talk(subject, [OPENED, child[0]], facts(), facts())[1]) == 2


def test_wordings_beyond_one_call_come_in_calls_of_their_own(monkeypatch):
    monkeypatch.setattr(manners_module, "PER_CALL", 2)
    keys = ("synthesis.phrasings=6",)
    child = pair("In what year was Hollin Mill opened?", "1926", "paraphrase", parent=OPENED.id)
    first = wordings("Hollin Mill opened when?", "When did Hollin Mill start?")
    second = wordings("The year in which Hollin Mill began?", "Hollin Mill start date")
    result, sent = talk(step("paraphrase", *keys), [OPENED, child], first, second)
    assert [item.question for item in result.reflections] == [
        *first["facts"][0]["questions"],
        *second["facts"][0]["questions"],
    ]
    assert all("2 other questions" in user(request) for request in sent)
    known = [OPENED.question, child.question]
    assert all(question in user(sent[0]) for question in known)
    assert all(question in user(sent[1]) for question in known + first["facts"][0]["questions"])

    _, (request,) = talk(step("direct", NO_LOOP, *keys), [], facts(), over=unit(MILL))
    assert "and 2 questions" in user(request)


def test_wordings_of_other_documents_do_not_change_a_request():
    subject = step("paraphrase", "synthesis.phrasings=2")
    alone = talk(subject, [OPENED], facts(), facts())[1]
    beside = talk(subject, [BORN, OPENED], facts(), facts(), facts(), facts())[1]
    assert alone[0].key in {request.key for request in beside}


def test_wordings_of_a_rewritten_pair_belong_to_its_fact():
    rewritten = pair("When was Hollin Mill opened?", "1926", parent="0" * 16)
    reply = wordings("In what year was Hollin Mill opened?")
    result, _ = talk(step("paraphrase", "synthesis.phrasings=2"), [rewritten], reply)
    (child,) = result.reflections
    assert child.fact == rewritten.fact == "0" * 16
    kept = clean([Candidate(0, rewritten), Candidate(1, child)], settings().synthesis).kept
    assert len({item.fact for item in kept}) == 1
    assert len(kept) == 2


def test_abstentions_are_as_many_as_set_and_answered_nowhere():
    known = [pair(f"What is part {n} of Hollin Mill?", f"{n} workers") for n in range(20)]
    asked = [(1, "Who owns Hollin Mill?"), (1, known[0].question), (7, "x?")]
    reply = {"questions": [{"passage": n, "question": text} for n, text in asked]}
    by_words = "synthesis.abstain_per_1000_words=0"
    result, (request,) = talk(step("abstain", by_words), known, reply)
    (made,) = result.reflections
    assert (made.kind, made.answer, made.sources) == ("abstain", ABSTAIN_ANSWER, ("mill",))
    assert reasons(result) == ["has an answer", "no such passage"]
    assert "write 3 questions" in user(request)
    more = "synthesis.abstain_per_1000_words=500"
    _, sent = talk(step("abstain", more), known, reply, {"questions": []})
    assert f"write {round(len(MILL.text.split()) / 2)} questions" in user(sent[0])
    assert talk(step("abstain", by_words, "synthesis.abstain_fraction=0"), known)[1] == []


# -- round trip ------------------------------------------------------------------------------------


def read(*answers):
    return {"answers": [{"question": n, "answer": text} for n, text in enumerate(answers, 1)]}


def test_round_trip_keeps_what_a_reader_answers_the_same():
    wrong = pair("How many workers has Hollin Mill?", "340")
    open_ = pair("Who owns Hollin Mill?", ABSTAIN_ANSWER, "abstain")
    answerable = pair("When did the dye house of Hollin Mill close?", ABSTAIN_ANSWER, "abstain")
    inputs = [OPENED, WHERE, wrong, open_, answerable]
    reply = read("In 1926", "not stated", "about 900", "Not stated.", "1971")
    result, (request,) = talk(step("roundtrip"), inputs, reply, over=unit(MILL))
    assert result.reflections == [OPENED, open_]
    assert reasons(result) == ["roundtrip: another answer"] * 3
    assert json.loads(result.rejected[1].raw) == {
        "question": wrong.question,
        "answer": "340",
        "read": "about 900",
    }
    assert "3. How many workers has Hollin Mill?" in user(request)
    assert "340\n" not in user(request).split(" questions ===")[1]


def test_round_trip_asks_again_for_what_was_left_out_and_keeps_nothing_unread():
    result, sent = talk(step("roundtrip"), [OPENED, WHERE], read("1926"), read(), over=unit(MILL))
    assert (result.reflections, reasons(result)) == ([OPENED], ["roundtrip: no answer"])
    assert OPENED.question not in user(sent[1])
    result, _ = talk(step("roundtrip"), [OPENED], "HTTP 500", over=unit(MILL))
    assert reasons(result) == ["roundtrip: not read: HTTP 500"]


def test_round_trip_batches_and_may_have_a_reader_of_its_own():
    subject = step("roundtrip", "synthesis.pairs_per_call=1", "synthesis.reader_model=judge")
    _, sent = talk(subject, [OPENED, WHERE], read("1926"), read("Garrow"), over=unit(MILL))
    assert [request.model for request in sent] == ["judge", "judge"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("1926", "in 1926", True),
        ("Ada Pell", "the chemist Ada Pell of Garrow", True),
        ("a large paper mill", "large mill for paper", True),
        ("180,000", "240,000", False),
        ("5 bar", "7 bar", False),
        ("5", "15", False),
        ("Garrow", "Ostrey", False),
        ("", "Garrow", False),
    ],
)
def test_answers_agree_by_their_words(first, second, expected):
    assert agree(first, second) is expected
    assert agree(second, first) is expected
