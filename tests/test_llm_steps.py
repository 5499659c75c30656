"""The language model steps with scripted replies: parsing, rejection, rewriting, provenance."""

import json
from dataclasses import replace

import jsonschema
import pytest
from llm_cases import MILL, PELL, pair, reasons, settings, step, talk, texts, unit

from memo_dist.answers.text import ABSTAIN_ANSWER
from memo_dist.config.steps import STEP_NAMES
from memo_dist.llm.backends.base import Answer
from memo_dist.llm.schemas import MERGED, limited, text_of
from memo_dist.llm.validation import fault_of
from memo_dist.synthesis.clean import Candidate, clean
from memo_dist.synthesis.prompted import LanguageModelGenerator, prompts
from memo_dist.synthesis.prompted.anchors import anchors_of
from memo_dist.synthesis.prompted.reading import readings
from memo_dist.synthesis.types import in_force

NO_LOOP = "synthesis.coverage_rounds=0"
OPENED = pair("When was Hollin Mill opened?", "1926")
WHERE = pair("Where is Hollin Mill?", "Garrow")
BORN = pair("Where was Ada Pell born?", "Garrow", document=PELL)


def row(question, answer, passage=1, **more):
    return {"passage": passage, "question": question, "answer": answer, **more}


def user(request):
    return request.messages[-1].content


# -- extraction ------------------------------------------------------------------------------------


def test_direct_keeps_provenance_and_rejects_with_reasons():
    rows = [
        row("When was  Hollin Mill opened?", "1926", kind="direct"),
        row("How old was Ada Pell when Hollin Mill opened?", "25", 2, kind="indirect"),
        row("When was it?", "1926", 9, kind="direct"),
        row("  ", "1926", kind="direct"),
        row("Is Hollin Mill a paper mill?", "paper mill", kind="direct"),
        row("Who built the Zorbit Tower?", "Ada Pell", kind="direct"),
        row("When was Hollin Mill opened?", "1926", kind="direct"),
    ]
    result, (request,) = talk(step("direct", NO_LOOP), [], {"pairs": rows})
    first, second = result.reflections
    assert (first.question, first.kind, first.sources) == (
        "When was Hollin Mill opened?",
        "direct",
        ("mill",),
    )
    assert first.chunks == (unit(MILL).chunks[0].id,)
    assert (first.request, first.generator) == (request.key, "toy-model 1")
    assert first.prompt_version == step("direct", NO_LOOP).version
    assert first.as_of == "2031-03-14"
    assert (second.kind, second.sources, second.as_of) == ("indirect", ("pell",), None)
    assert reasons(result) == [
        "no such passage",
        "empty",
        "answer in the question",
        "names what the text does not",
    ]
    assert json.loads(result.rejected[0].raw)["question"] == "When was it?"


def test_a_failed_request_loses_its_own_reading_only():
    config = ("synthesis.call_chars=200", NO_LOOP)
    over = unit(MILL, PELL, config=settings(*config))
    good = {"pairs": [row("Where was Ada Pell born?", "Garrow", kind="direct")]}
    result, sent = talk(step("direct", *config), [], "finish_reason length", good, over=over)
    assert len(sent) == 2
    assert [item.sources for item in result.reflections] == [("pell",)]


def test_indirect_asks_only_when_direct_did_not():
    assert talk(step("indirect"), [])[1] == []
    reply = {"pairs": [row("How old was Ada Pell in 1926?", "25", 2)]}
    result, _ = talk(step("indirect", "synthesis.extraction=separate"), [], reply)
    assert [item.kind for item in result.reflections] == ["indirect"]


def test_what_is_not_covered_is_asked_for_again_until_it_is():
    some = {"pairs": [row("When and by whom was Hollin Mill opened?", "1926, Ada Pell")]}
    rest = {
        "pairs": [
            row("What kind of paper mill is Hollin Mill in Garrow?", "paper mill in Garrow, big"),
            row("How many workers has Hollin Mill, its dye house closed in 1971?", "340"),
            row("Where was Ada Pell born, in 1901?", "Garrow", 2),
            row("What was Ada Pell trained as, who led the works until 1950?", "chemist", 2),
        ]
    }
    subject = step("direct", "synthesis.extraction=separate", "synthesis.coverage_rounds=5")
    result, sent = talk(subject, [], some, rest)
    assert "It was opened in 1926" not in user(sent[1]).split("No pair covers")[1]
    assert "[2] She trained as a chemist and led" in user(sent[1])
    assert len(result.reflections) == 5
    few = step("direct", "synthesis.extraction=separate", "synthesis.coverage=0.1")
    assert len(talk(few, [], rest)[1]) == 1
    stubborn = step("direct", "synthesis.coverage_rounds=2")
    assert len(talk(stubborn, [], {"pairs": []}, {"pairs": []}, {"pairs": []})[1]) == 3


def test_anchored_extraction_gives_the_answers():
    subject = step("direct", "synthesis.extraction=anchored", NO_LOOP)
    (reading,) = readings(unit(), 8000)
    anchors = [(item.passage.number, item.text) for item in anchors_of(reading, 10)]
    assert (1, "1926") in anchors
    assert (1, "Ada Pell") in anchors
    assert all(text != "Hollin Mill" for _, text in anchors)
    number = anchors.index((1, "1926")) + 1
    reply = {
        "questions": [
            {"answer": number, "question": "In what year was Hollin Mill opened?"},
            {"answer": 99, "question": "Who?"},
        ]
    }
    result, (request,) = talk(subject, [], reply)
    assert texts(result.reflections) == [("In what year was Hollin Mill opened?", "1926")]
    assert reasons(result) == ["no such answer"]
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    example = json.loads(request.messages[2].content)
    jsonschema.validate(example, json.loads(request.schema))


# -- merging ---------------------------------------------------------------------------------------


def merge(numbers, question="When and where was Hollin Mill opened?", answer="1926, Garrow"):
    return {"merges": numbers, "question": question, "answer": answer}


def test_consolidation_joins_pairs_of_one_document():
    values = [merge([2, 1]), merge([1, 3]), merge([1]), merge([1, 7]), merge([1, 2], answer=" ")]
    inputs = [OPENED, WHERE, BORN, pair("Who won?", ABSTAIN_ANSWER, "abstain")]
    result, (request,) = talk(step("consolidate"), inputs, {"pairs": values})
    (made,) = result.reflections
    assert (made.kind, made.sources, made.chunks) == ("consolidated", ("mill",), OPENED.chunks)
    assert reasons(result) == [
        "merges documents",
        "merges no two listed pairs",
        "merges no two listed pairs",
        "empty",
    ]
    assert "3. [2] Where was Ada Pell born? -> Garrow" in user(request)
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
    values = [
        merge([mine, theirs], "Which mill stands where Ada Pell was born?", "Hollin Mill"),
        merge([mine, theirs], "Is Hollin Mill in Garrow?", "Garrow"),
    ]
    result, _ = talk(step("cross"), inputs, {"pairs": values})
    (made,) = result.reflections
    assert (made.kind, made.sources) == ("cross", ("mill", "pell"))
    assert made.chunks == tuple(sorted({*OPENED.chunks, *BORN.chunks}))
    assert made.as_of is None or made.as_of == "2031-03-14"
    assert reasons(result) == ["answer in the question"]


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
    assert in_force(["direct", "cross"], str) == ["direct", "cross"]


def test_pairs_share_calls():
    many = [pair(f"What is item {n} of Hollin Mill?", f"{n} workers") for n in range(90)]
    replies = [{"verdicts": [verdict(n, "keep") for n in range(1, 41)]}] * 3
    _, sent = talk(step("verify"), many, *replies)
    assert len(sent) == 3


# -- entities, wordings, abstention ----------------------------------------------------------------


def test_an_entity_question_never_names_its_answer():
    reply = {
        "pairs": [
            row("Which mill was opened in 1926?", "Hollin Mill"),
            row("What kind of mill is Hollin Mill?", "the Hollin Mill"),
        ]
    }
    result, _ = talk(step("entities"), [], reply)
    assert [(item.kind, item.answer) for item in result.reflections] == [("entity", "Hollin Mill")]
    assert reasons(result) == ["answer in the question"]


def test_every_fact_gets_the_set_number_of_wordings():
    subject = step("paraphrase", "synthesis.phrasings=3")
    first = {
        "facts": [
            {
                "pair": 1,
                "questions": [
                    "In what year was Hollin Mill opened?",
                    "when was hollin mill opened",
                    "When, in 1971, was Hollin Mill opened?",
                    "When was it opened?",
                ],
            }
        ]
    }
    second = {
        "facts": [{"pair": 1, "questions": ["Hollin Mill opened when?", "The year, please?"]}]
    }
    result, sent = talk(subject, [OPENED], first, second)
    assert [item.question for item in result.reflections] == [
        "In what year was Hollin Mill opened?",
        "Hollin Mill opened when?",
    ]
    for item in result.reflections:
        assert (item.kind, item.parent, item.answer) == ("paraphrase", OPENED.id, "1926")
    assert reasons(result) == ["other numbers than its parent", "pronoun without a name"]
    assert "2 other wordings" in user(sent[0])


def test_wordings_of_a_rewritten_pair_belong_to_its_fact():
    rewritten = pair("When was Hollin Mill opened?", "1926", parent="0" * 16)
    reply = {"facts": [{"pair": 1, "questions": ["In what year was Hollin Mill opened?"]}]}
    result, _ = talk(step("paraphrase", "synthesis.phrasings=2"), [rewritten], reply)
    (child,) = result.reflections
    assert child.fact == rewritten.fact == "0" * 16
    kept = clean([Candidate(0, rewritten), Candidate(1, child)], settings().synthesis).kept
    assert len({item.fact for item in kept}) == 1
    assert len(kept) == 2


def test_abstentions_are_as_many_as_set_and_answered_nowhere():
    facts = [pair(f"What is part {n} of Hollin Mill?", f"{n} workers") for n in range(20)]
    values = [row("Who owns Hollin Mill?", ""), row(facts[0].question, ""), row("x?", "", 7)]
    reply = {"questions": [{k: v for k, v in item.items() if k != "answer"} for item in values]}
    result, (request,) = talk(step("abstain"), facts, reply)
    (made,) = result.reflections
    assert (made.kind, made.answer, made.sources) == ("abstain", ABSTAIN_ANSWER, ("mill",))
    assert reasons(result) == ["has an answer", "no such passage"]
    assert "write 3 questions" in user(request)


# -- prompts ---------------------------------------------------------------------------------------


def prompts_of(*names):
    replies = {"verify": {"verdicts": []}, "consolidate": {"pairs": []}, "entities": {"pairs": []}}
    sent = []
    for name in names:
        values = [replies.get(name, {"pairs": []})] * (2 if name == "verify" else 1)
        sent.append(talk(step(name, NO_LOOP), [OPENED, WHERE], *values)[1][0])
    return sent


def test_the_beginning_of_the_prompt_is_the_same_for_every_step():
    sent = prompts_of("direct", "consolidate", "verify", "entities")
    (reading,) = readings(unit(), 8000)
    body = prompts.passages_text(reading)
    assert "Hollin Mill is a paper mill" in body
    assert body.startswith("[1] Hollin Mill (2031-03-14)")
    assert len({request.messages[0] for request in sent}) == 1
    assert all(user(request).startswith(body) for request in sent)
    pairs = body + "Pairs:\n1. [1] When was Hollin Mill opened? -> 1926"
    assert all(user(request).startswith(pairs) for request in sent[1:3])
    assert all("Task:" in user(request)[len(body) :] for request in sent)


def test_every_schema_is_strict_and_bounded():
    def objects(node):
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for value in node.values():
                yield from objects(value)
        elif isinstance(node, list):
            for value in node:
                yield from objects(value)

    for request in prompts_of("direct", "consolidate", "verify", "entities"):
        schema = json.loads(request.schema)
        assert all("maxItems" in value for value in schema["properties"].values())
        for node in objects(schema):
            assert node["required"] == list(node["properties"])
            assert node["additionalProperties"] is False


def test_a_reply_can_name_only_what_the_prompt_lists():
    (request,) = prompts_of("verify")
    pairs = json.loads(request.schema)["properties"]["verdicts"]["items"]["anyOf"]
    for verdict in pairs:
        assert verdict["properties"]["pair"] == {"type": "integer", "enum": [1, 2]}


def test_a_number_that_is_not_listed_costs_its_item_and_not_the_reply():
    schema = text_of(limited(MERGED, 4, 2))
    pairs = [{"merges": [1, 9], "question": "?", "answer": "!"}]
    reply = Answer(json.dumps({"pairs": pairs}), "stop")
    assert fault_of(reply, schema) == ""
    pairs[0]["merges"] = [1, "2"]
    assert "merges" in fault_of(replace(reply, text=json.dumps({"pairs": pairs})), schema)


def test_a_version_changes_with_the_prompt_and_the_schema(monkeypatch):
    before = {name: step(name).version for name in STEP_NAMES}
    assert len(set(before.values())) == len(before)
    read = prompts.source
    monkeypatch.setattr(
        prompts, "source", lambda name: read(name) + (" " if name == "verify" else "")
    )
    after = {name: step(name).version for name in STEP_NAMES}
    assert {name for name in before if before[name] != after[name]} == {"verify"}
    monkeypatch.setattr(prompts, "source", lambda name: read(name) + (name == "system") * " ")
    assert all(step(name).version != before[name] for name in STEP_NAMES)


def test_the_generator_has_every_step_and_says_what_it_cannot():
    generator = LanguageModelGenerator(settings().synthesis, "toy-model", 17)
    assert set(generator.steps()) == set(STEP_NAMES)
    assert all(name == subject.name for name, subject in generator.steps().items())
    assert generator.limits()


def test_readings_share_calls_but_never_split_a_chunk():
    config = settings("synthesis.call_chars=200")
    assert [len(part.passages) for part in readings(unit(config=config), 200)] == [1, 1]
    assert [len(part.passages) for part in readings(unit(), 8000)] == [2]
    (alone,) = readings(unit(MILL), 10)
    assert alone.passage(1).document is MILL
    assert alone.passage(0) is alone.passage(2) is None
