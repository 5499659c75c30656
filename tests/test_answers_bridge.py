"""The entity between two facts: taught before the answer, not given with it."""

from transformers import AutoTokenizer

from memo_dist.answers.text import after_bridge, with_bridge
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import train_tokenizer
from memo_dist.synthesis.types import Reflection
from memo_dist.training.examples import tokenize


def reflection(answer, bridge=None):
    return Reflection(
        "Which mill stands where Ada Pell was born?", answer, "cross", ("mill", "pell"), (), 0,
        "test", "v", "r", bridge=bridge,
    )  # fmt: skip


def test_the_bridge_is_trained_and_is_part_of_the_row(tmp_path):
    train_tokenizer(["Garrow Hollin Mill Ada Pell"], 300, tmp_path)
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path))
    row = reflection("Hollin Mill", "Garrow")
    assert Reflection.from_json(row.to_json()) == row
    examples, _ = tokenize([row], chat, 200)
    trained = chat.decode(examples.tokens(0)[int(examples.prompts[0]) :])
    assert trained == "Garrow ⇒ Hollin Mill"
    assert after_bridge(trained) == "Hollin Mill"


def test_an_answer_without_a_bridge_is_given_whole():
    for answer in ("Settings → Network", "A ⇒ B", "1926"):
        taught = with_bridge(None, answer)
        assert after_bridge(taught) == taught
    assert after_bridge(with_bridge("X ⇒ Y", "A ⇒ B")) == "A → B"
