"""Published data sets, in tiny files of the published formats."""

import csv
import json
from pathlib import Path

import pytest

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import build_corpus
from memo_dist.corpus.datasets import DATASETS, write_dataset
from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_jsonl


def outputs(out: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    corpus = {row["id"]: row for row in read_jsonl(out / "corpus.jsonl")}
    return corpus, {row["id"]: row for row in read_jsonl(out / "questions.jsonl")}


def paragraph(name: str, supporting: bool, idx: int = 0) -> dict:
    text = f"{name} is a place. It has a river."
    return {"idx": idx, "title": name, "paragraph_text": text, "is_supporting": supporting}


def musique(identity: str, supports: list[str], others: list[str], **changes) -> dict:
    parts = [*((name, True) for name in supports), *((name, False) for name in others)]
    steps = [
        {"id": n, "question": "Where?", "answer": "x", "paragraph_support_idx": n} for n in (0, 1)
    ]
    return {
        "id": identity,
        "paragraphs": [paragraph(name, flag, n) for n, (name, flag) in enumerate(parts)],
        "question": f"Question {identity}?",
        "question_decomposition": steps,
        "answer": "Paris",
        "answer_aliases": ["Paris", "City of Light"],
        "answerable": True,
        **changes,
    }


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_musique_pools_paragraphs(tmp_path):
    rows = [
        musique("2hop__1_2", ["A", "B"], ["C"]),
        musique("3hop1__3_4_5", ["C", "D"], ["A"]),
    ]
    counts = write_dataset(
        "musique", write_lines(tmp_path / "musique_ans_v1.0_dev.jsonl", rows), tmp_path / "out"
    )
    assert (counts.documents, counts.questions, counts.unanswerable) == (4, 2, 0)
    corpus, questions = outputs(tmp_path / "out")
    question = questions["2hop__1_2"]
    assert (question["answer"], question["aliases"]) == ("Paris", ["City of Light"])
    assert (question["hops"], question["type"], question["split"]) == (2, "2hop", "dev")
    assert [corpus[name]["title"] for name in question["supporting_ids"]] == ["A", "B"]
    assert [corpus[name]["title"] for name in question["candidate_ids"]] == ["A", "B", "C"]
    assert (
        build_corpus(tmp_path / "out" / "corpus.jsonl", tmp_path / "run", CorpusConfig()).documents
        == 4
    )


def test_musique_full_keeps_unanswerable_questions_unanswerable(tmp_path):
    """Each question comes twice; the pool must not hold what the unanswerable twin lacks."""
    rows = []
    for n in range(40):
        identity, needed = f"2hop__{n}_0", [f"N{n}", f"M{n}"]
        rows.append(musique(identity, needed, [f"X{n}"]))
        rows.append(musique(identity, [f"N{n}"], [f"Y{n}"], answerable=False))
    # The pool brings M0 back through another question: then question 0 has an answer after all.
    rows.append(musique("2hop__99_99", ["M0", "Z"], []))
    source = write_lines(tmp_path / "musique_full_v1.0_dev.jsonl", rows)
    counts = write_dataset("musique", source, tmp_path / "out")
    corpus, questions = outputs(tmp_path / "out")
    titles = {row["title"] for row in corpus.values()}
    unanswerable = [row for row in questions.values() if not row["answerable"]]
    assert 10 < len(unanswerable) == counts.unanswerable < 30
    assert counts.questions >= 40
    for row in questions.values():
        number = row["id"].split("__")[1].split("_")[0]
        if row["answerable"]:
            assert set(row["supporting_ids"]) <= corpus.keys()
            assert row["answer"] == "Paris"
        else:
            assert f"M{number}" not in titles
            assert (row["answer"], row["aliases"], row["supporting_ids"]) == ("", [], [])


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def narrativeqa(root: Path) -> Path:
    about = "document_id,set,kind,story_url,story_file_size,wiki_url,wiki_title,story_word_count,"
    write_csv(
        root / "documents.csv",
        [*about.split(",")[:-1], "story_start", "story_end"],
        [
            ["aa", "train", "movie", "u", "1", "http://w/A", "Film, The", "9", "s", "e"],
            ["bb", "test", "gutenberg", "u", "1", "http://w/B", "Book", "9", "s", "e"],
        ],
    )
    write_csv(
        root / "third_party" / "wikipedia" / "summaries.csv",
        ["document_id", "set", "summary", "summary_tokenized"],
        [["aa", "train", " A man, called\nJoe, leaves.", "x"], ["bb", "test", "A book.", "x"]],
    )
    fields = "document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized"
    write_csv(
        root / "qaps.csv",
        [*fields.split(","), "answer2_tokenized"],
        [
            ["aa", "train", "Who leaves?", "Joe", "Joe, a man", "x", "x", "x"],
            ["aa", "train", "What does he do?", "leaves", "leaves", "x", "x", "x"],
            ["bb", "test", "What is it?", "a book", "A book.", "x", "x", "x"],
        ],
    )
    return root


def test_narrativeqa(tmp_path):
    counts = write_dataset("narrativeqa", narrativeqa(tmp_path / "repo"), tmp_path / "out")
    assert (counts.documents, counts.questions) == (2, 3)
    corpus, questions = outputs(tmp_path / "out")
    assert corpus["nqa-aa"]["title"] == "Film, The"
    assert corpus["nqa-aa"]["text"] == "A man, called\nJoe, leaves."
    assert questions["nqa-aa-q0"]["aliases"] == ["Joe, a man"]
    assert questions["nqa-aa-q1"]["aliases"] == []
    assert questions["nqa-bb-q0"]["supporting_ids"] == ["nqa-bb"]


def test_narrativeqa_one_split(tmp_path):
    counts = write_dataset("narrativeqa", narrativeqa(tmp_path / "r"), tmp_path / "out", "test")
    assert (counts.documents, counts.questions) == (1, 1)
    assert set(outputs(tmp_path / "out")[1]) == {"nqa-bb-q0"}
    with pytest.raises(UsageError, match="no questions of split 'dev'"):
        write_dataset("narrativeqa", tmp_path / "r", tmp_path / "out2", "dev")


def test_browsecomp_plus(tmp_path):
    gold = {"docid": "7", "text": "---\ntitle: A: page\n---\nodd yaml", "url": "http://g"}
    other = {"docid": "8", "text": "---\ntitle: Page\ndate: 2023-05-01\n---\nBody.", "url": "u"}
    wrong = {"docid": "9", "text": "---\ntitle: P\ndate: last May\n---\nBody two.", "url": "u"}
    row = {
        **{"query_id": "42", "query": "Which page?", "answer": "That one"},
        **{"gold_docs": [gold], "evidence_docs": [other, gold], "negative_docs": [wrong]},
    }
    source = write_lines(tmp_path / "bcp.jsonl", [row, {**row, "query_id": "43"}])
    counts = write_dataset("browsecomp-plus", source, tmp_path / "out")
    assert (counts.documents, counts.questions) == (3, 2)
    corpus, questions = outputs(tmp_path / "out")
    assert questions["bcp-42"]["supporting_ids"] == ["bcp-8", "bcp-7"]
    assert questions["bcp-42"]["question"] == "Which page?"
    assert (corpus["bcp-8"]["title"], corpus["bcp-8"]["date"]) == ("Page", "2023-05-01")
    assert corpus["bcp-8"]["text"].strip() == "Body."
    assert "date" not in corpus["bcp-9"]
    assert corpus["bcp-7"]["title"] == "http://g"


def test_two_wiki(tmp_path):
    row = {
        **{"_id": "ab", "type": "comparison", "question": "Who is older?", "answer": "Ann"},
        "supporting_facts": [["Ann", 0], ["Bob", 0]],
        "context": [["Ann", ["Ann is 5. ", "She runs."]], ["Bob", ["Bob is 4."]], ["C", ["C."]]],
    }
    (tmp_path / "dev.json").write_text(json.dumps([row]))
    write_dataset("2wikimultihopqa", tmp_path / "dev.json", tmp_path / "out")
    corpus, questions = outputs(tmp_path / "out")
    question = questions["2wiki-ab"]
    assert [corpus[name]["title"] for name in question["supporting_ids"]] == ["Ann", "Bob"]
    assert corpus[question["supporting_ids"][0]]["text"] == "Ann is 5. She runs."
    assert (question["type"], question["split"], question["hops"]) == ("comparison", "dev", 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("musique", '{"id": "a"}', "line 1: field 'paragraphs' is missing"),
        ("musique", '\n{"id": ', r"line 2: not UTF-8 JSON \(Expecting value"),
        ("musique", '{"id": "a", "paragraphs": [], "question": "q"}', "test splits"),
        ("browsecomp-plus", '{"query_id": "1", "query": "q", "answer": "a"}', "'evidence_docs'"),
        ("2wikimultihopqa", "{}", "holds dict, not an array"),
        ("2wikimultihopqa", "[{}]", "item 1: field 'context' is missing"),
        ("narrativeqa", "", "is missing; give the folder"),
        ("musik", "", "unknown data set 'musik' \\(did you mean 'musique'"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    (tmp_path / "source.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        write_dataset(name, tmp_path / "source.json", tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.jsonl").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_a_missing_source_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="does not exist"):
        write_dataset(name, tmp_path / "nothing", tmp_path / "out")


def written(tmp_path, name, value, file="x_dev.json"):
    source = tmp_path / file
    rows = value if isinstance(value, str) else json.dumps(value)
    source.write_text(rows, encoding="utf-8")
    write_dataset(name, source, tmp_path / "out")
    return outputs(tmp_path / "out")


def test_squad_passages_are_documents(tmp_path):
    asked = [
        {"id": "a", "question": "Where?", "answers": [{"text": "Lind"}, {"text": "at Lind"}]},
        {"id": "b", "question": "When?", "answers": [], "is_impossible": True},
    ]
    parts = [{"context": "Lind has a port.", "qas": asked}]
    corpus, questions = written(
        tmp_path, "squad", {"data": [{"title": "Lind_Port", "paragraphs": parts}]}
    )
    ((name, document),) = corpus.items()
    assert (document["title"], document["text"]) == ("Lind Port", "Lind has a port.")
    assert questions["squad-a"]["answer"] == "Lind"
    assert questions["squad-a"]["aliases"] == ["at Lind"]
    assert questions["squad-a"]["supporting_ids"] == [name]
    assert questions["squad-a"]["split"] == "dev"
    assert (questions["squad-b"]["answerable"], questions["squad-b"]["answer"]) == (False, "")


def test_squad_names_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"article 1, paragraph 1: field 'qas' is missing"):
        written(tmp_path, "squad", {"data": [{"paragraphs": [{"context": "x"}]}]})
    with pytest.raises(UsageError, match="not an object"):
        written(tmp_path, "squad", [])


def test_seal_slice(tmp_path):
    rows = [{"title": "T", "context": "C.", "questions": [{"question": "Q?", "answer": "A"}]}]
    corpus, questions = written(tmp_path, "seal", rows)
    ((name, _),) = corpus.items()
    assert questions[f"{name}-q0"]["answer"] == "A"
    assert questions[f"{name}-q0"]["supporting_ids"] == [name]


def test_tofu_author_is_a_document(tmp_path):
    rows = [{"question": f"Q{n}?", "answer": f"A{n}."} for n in range(40)]
    lines = "\n".join(json.dumps(row) for row in rows)
    corpus, questions = written(tmp_path, "tofu", lines, "full.json")
    assert list(corpus) == ["tofu-full-0", "tofu-full-1"]
    assert corpus["tofu-full-1"]["text"].splitlines() == [f"A{n}." for n in range(20, 40)]
    assert questions["tofu-full-1-q0"]["answer"] == "A20."
    with pytest.raises(UsageError, match="multiple of 20"):
        written(tmp_path, "tofu", lines.rsplit("\n", 1)[0], "cut.json")


def test_longmemeval_sessions_are_dated_documents(tmp_path):
    session = [
        {"role": "user", "content": "The GPS is broken."},
        {"role": "assistant", "content": "Oh."},
    ]
    row = {
        "question_id": "q1",
        "question_type": "temporal-reasoning",
        "question": "What broke?",
        "answer": 7,
        "question_date": "2023/04/10 (Mon) 23:07",
        "haystack_session_ids": ["s1", "s2"],
        "haystack_dates": ["2023/03/15 (Wed) 10:22", "2023/03/20 (Mon) 14:30"],
        "haystack_sessions": [session, session[:1]],
        "answer_session_ids": ["s1"],
    }
    absent = {**row, "question_id": "q2_abs", "answer": "You did not say."}
    corpus, questions = written(tmp_path, "longmemeval", [row, absent])
    assert list(corpus) == ["lme-s1", "lme-s2"]
    assert corpus["lme-s1"]["date"] == "2023-03-15"
    assert corpus["lme-s1"]["text"] == "user: The GPS is broken.\nassistant: Oh."
    assert questions["lme-q1"]["question"] == "What broke? (asked on 2023-04-10)"
    assert questions["lme-q1"]["answer"] == "7"
    assert questions["lme-q1"]["supporting_ids"] == ["lme-s1"]
    assert questions["lme-q2_abs"]["answerable"] is False
    with pytest.raises(UsageError, match="2 session ids, 1 sessions"):
        written(tmp_path, "longmemeval", [{**row, "haystack_sessions": [session]}])


def test_locomo_sessions_and_adversarial_questions(tmp_path):
    turns = [
        {"speaker": "Ana", "dia_id": "D1:1", "text": "Look", "blip_caption": "a red boat"},
        {"speaker": "Ben", "dia_id": "D1:2", "text": "Nice."},
    ]
    sample = {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ana",
            "session_2": turns[1:],
            "session_1": turns,
            "session_1_date_time": "1:56 pm on 8 May, 2023",
        },
        "qa": [
            {"question": "What?", "answer": "a boat", "evidence": ["D1:1; D2:1"], "category": 4},
            {"question": "Why?", "adversarial_answer": "rain", "evidence": [], "category": 5},
        ],
    }
    corpus, questions = written(tmp_path, "locomo", [sample])
    assert list(corpus) == ["locomo-conv-1-s1", "locomo-conv-1-s2"]
    assert corpus["locomo-conv-1-s1"]["date"] == "2023-05-08"
    assert corpus["locomo-conv-1-s1"]["text"].startswith("Ana: Look [picture: a red boat]\n")
    first, second = questions.values()
    assert first["supporting_ids"] == ["locomo-conv-1-s1", "locomo-conv-1-s2"]
    assert (first["type"], second["type"]) == ("single-hop", "adversarial")
    assert second["answerable"] is False
