"""questions.jsonl: what is read, and that every mistake is named with its line."""

import json

import pytest

from memo_dist.errors import UsageError
from memo_dist.evaluation.questions import load_questions

GOOD = {"id": "q1", "question": "Who leads it?", "answer": "Ada Venn"}


def write(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_fields_defaults_and_ignores_unknown_ones(tmp_path):
    full = {
        **GOOD,
        "aliases": ["A. Venn", " "],
        "supporting_ids": ["d1", "d2"],
        "type": "2hop",
        "hops": 2,
    }
    unanswerable = {"id": "q2", "question": "And who left?", "answer": "", "answerable": False}
    first, second = load_questions(write(tmp_path, full, unanswerable))
    assert first.golds == ("Ada Venn", "A. Venn")
    assert first.supporting_ids == ("d1", "d2")
    assert (first.answerable, first.type) == (True, "2hop")
    assert (second.answerable, second.answer, second.type) == (False, "", "")


def test_limit_keeps_the_first_but_checks_all(tmp_path):
    rows = [{**GOOD, "id": f"q{n}"} for n in range(5)]
    assert [q.id for q in load_questions(write(tmp_path, *rows), limit=2)] == ["q0", "q1"]
    with pytest.raises(UsageError, match="line 6"):
        load_questions(write(tmp_path, *rows, rows[0]), limit=2)
    with pytest.raises(UsageError, match="-1"):
        load_questions(write(tmp_path, *rows), limit=-1)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"id": "q2", "answer": "x"}, "'question' is missing"),
        ({"question": "?", "answer": "x"}, "'id' is missing"),
        ({"id": "q2", "question": "?"}, "'answer' is missing"),
        ({"id": "q2", "question": "?", "answer": " "}, "'answer' is ' '"),
        ({"id": 7, "question": "?", "answer": "x"}, "'id' is 7"),
        ({**GOOD, "id": "q2", "answerable": "false"}, "'answerable' is 'false'"),
        ({**GOOD, "id": "q2", "answerable": False}, "'answerable' is false"),
        ({**GOOD, "id": "q2", "aliases": "Ada"}, "'aliases' is 'Ada'"),
        (GOOD, "'q1' was used on line 1"),
        ([1], "a list, not a JSON object"),
    ],
)
def test_bad_rows_name_line_and_field(tmp_path, bad, named):
    with pytest.raises(UsageError, match="line 2") as caught:
        load_questions(write(tmp_path, GOOD, bad))
    assert named in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load_questions(tmp_path / "missing.jsonl")
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="no question"):
        load_questions(path)
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}\n')
    with pytest.raises(UsageError, match="line 2"):
        load_questions(path)


def test_half_a_surrogate_pair_is_refused_before_a_file_is_written(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({**GOOD, "answer": "\ud83d\ude00"}) + "\n")
    assert load_questions(path)[0].answer == "\U0001f600"
    path.write_text(json.dumps({**GOOD, "question": "Who \ud83d?"}) + "\n")
    with pytest.raises(UsageError, match=r"line 1: not UTF-8 JSON .*surrogates"):
        load_questions(path)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert [q.id for q in load_questions(path)] == ["q1"]
    two = json.dumps({**GOOD, "id": "q2", "answer": "a\u2028b"}, ensure_ascii=False)
    path.write_bytes(json.dumps(GOOD).encode() + b"\r" + two.encode())
    assert [q.answer for q in load_questions(path)][1] == "a\u2028b"
