"""The reader and the baselines on a small random model: mechanics, never quality."""

import pytest
import torch

from memo_dist.config import schema
from memo_dist.config.schema import ScratchConfig
from memo_dist.corpus.types import Chunk, Document
from memo_dist.errors import UsageError
from memo_dist.evaluation import baselines
from memo_dist.evaluation.baselines import Bm25, ClosedBook, Oracle, ReaderSettings, abstains
from memo_dist.evaluation.questions import Question
from memo_dist.models.reader import Reader
from memo_dist.models.scratch import new_scratch_model, scratch_model_config, train_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}"
DOCUMENTS = [
    Document("harbour", "Lindmouth harbour", "Ada Venn was the first captain of the pilot boat."),
    Document("pears", "Pears of Sella", "The valley sells its pears in Corvo each October."),
    Document("glass", "The glass works", "Three furnaces melt sand from the northern dunes."),
]
CHUNKS = [Chunk(d.id, 0, len(d.text), d.text) for d in DOCUMENTS]
SETTINGS = ReaderSettings(base="b" * 64, max_answer_tokens=8, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    texts = [f"{d.title} {d.text}" for d in DOCUMENTS]
    size = train_tokenizer(texts, 400, folder)
    shape = ScratchConfig(vocabulary=400, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    new_scratch_model(scratch_model_config(shape, size), seed=5).save_pretrained(folder)
    return folder


@pytest.fixture
def reader(folder):
    reader = Reader.load(folder)
    reader._tokenizer.chat_template = TEMPLATE
    return reader


def ask(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def test_reader_gives_the_same_answers_alone_and_in_a_batch(reader):
    prompts = [ask("pears " * n) for n in (9, 1, 30, 4)]
    together = reader.generate(prompts, 6, batch_size=4)
    alone = [reader.generate([prompt], 6)[0] for prompt in prompts]
    assert together == alone
    assert [g.prompt_tokens for g in together] == [reader.count(p) for p in prompts]
    assert all(1 <= g.new_tokens <= 6 for g in together)


def test_reader_leaves_the_random_state_alone_and_needs_no_prompt(reader):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert reader.generate([], 4) == []
    reader.generate([ask("pears")], 4)
    assert torch.rand(1) == expected


def test_reader_without_a_template_or_a_system_turn(reader):
    reader._tokenizer.chat_template = NO_SYSTEM + TEMPLATE
    text = reader._tokenizer.decode(reader.render(ask("Who?")))
    assert "system" not in text
    assert "Be brief.\n\nWho?" in text
    reader._tokenizer.chat_template = None
    assert reader._tokenizer.decode(reader.render(ask("Who?"))).endswith("Who?\nAnswer:")


def test_reader_refuses_a_prompt_beyond_its_context(reader):
    reader.context = 60
    with pytest.raises(UsageError, match=r"context of 60.*evaluate\.passages"):
        reader.generate([ask("pears " * 60)], 8)


def test_a_folder_without_a_model_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"memory\.base"):
        Reader.load(tmp_path)


def test_truncate_cuts_text_at_a_token(reader):
    text = DOCUMENTS[0].text
    cut = reader.truncate(text, 5)
    assert text.startswith(cut)
    assert 0 < len(cut) < len(text)
    assert reader.truncate(text, 1000) == text


def test_closed_book_reads_nothing(reader):
    answers = ClosedBook(reader, SETTINGS).answer(["Who was the captain?", "And who sells pears?"])
    assert [a.sources for a in answers] == [(), ()]
    assert all(a.tokens > 8 and a.seconds > 0 and a.shards == () for a in answers)


def test_bm25_finds_the_passage_and_cites_its_document(reader):
    bm25 = Bm25(reader, SETTINGS, DOCUMENTS, CHUNKS, passages=2)
    assert bm25.search("Who was captain of the pilot boat?")[0].document == "harbour"
    assert bm25.search("What are the furnaces for?")[0].document == "glass"
    assert bm25.search("zzz qqq") == []
    assert bm25.search("") == []
    (answer,) = bm25.answer(["Where are pears sold?"])
    assert answer.abstained or answer.sources[0] == "pears"


def test_bm25_prompts_fit_a_small_context(reader):
    reader.context = 150
    long = [Document("long", "Long", "pears and more pears " * 200)]
    chunks = [Chunk("long", 0, len(long[0].text), long[0].text)]
    (answer,) = Bm25(reader, SETTINGS, long, chunks, passages=3).answer(["Where are pears?"])
    assert 100 < answer.tokens <= 150


def test_bm25_needs_chunks_and_passages(reader):
    with pytest.raises(UsageError, match="no chunk"):
        Bm25(reader, SETTINGS, [], [], passages=1)
    with pytest.raises(UsageError, match=r"evaluate\.passages is 0"):
        Bm25(reader, SETTINGS, DOCUMENTS, CHUNKS, passages=0)


def test_oracle_reads_the_gold_documents(reader):
    questions = [
        Question("q1", "Who was captain?", "Ada Venn", supporting_ids=("harbour", "gone")),
        Question("q2", "What is missing?", "", answerable=False),
    ]
    oracle = Oracle(reader, SETTINGS, DOCUMENTS, questions)
    first, second = oracle.answer([q.question for q in questions])
    assert first.abstained or first.sources == ("harbour",)
    assert second.sources == ()
    assert first.tokens > second.tokens


def test_identity_follows_what_decides_the_answers(reader):
    def identity(settings=SETTINGS, chunks=CHUNKS, passages=2):
        return Bm25(reader, settings, DOCUMENTS, chunks, passages).identity

    assert identity() == identity()
    changed = [
        identity(passages=1),
        identity(chunks=CHUNKS[:2]),
        identity(settings=ReaderSettings("c" * 64, 8)),
        identity(settings=ReaderSettings("b" * 64, 9)),
        ClosedBook(reader, SETTINGS).identity,
    ]
    assert len({identity(), *changed}) == 6
    assert identity(settings=ReaderSettings("b" * 64, 8, batch_size=7)) == identity()


@pytest.mark.parametrize("text", ["", "I don't know.", "The passage does not tell who leads it."])
def test_a_base_that_does_not_know_abstains(text):
    assert abstains(text)
    assert not abstains("Ada Venn, I think.")


def test_every_baseline_of_the_configuration_can_be_built():
    assert tuple(baselines.BASELINES) == schema.BASELINES
