"""The format that is trained is the format that is served, for every kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from memo_dist.errors import UsageError
from memo_dist.models.chat_format import ChatFormat
from memo_dist.models.scratch import train_tokenizer

TEXTS = ["What is the code of item 7? It is blue.", "Who opened the Tarn plant? Ada did."] * 20


@pytest.fixture
def chatml(tmp_path):
    train_tokenizer(TEXTS, 320, tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


@pytest.fixture
def plain():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_installed_template_writes_the_trained_tokens(name, request):
    tokenizer = request.getfixturevalue(name)
    chat = ChatFormat.from_tokenizer(tokenizer)
    question, answer = "Who opened the Tarn plant?", "Ada did"
    chat.install(tokenizer)
    user = {"role": "user", "content": question}
    served = tokenizer.apply_chat_template(
        [user], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert served == chat.prompt_ids(question)
    whole = tokenizer.apply_chat_template(
        [user, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False
    )
    trained = chat.prompt_ids(question) + chat.answer_ids(answer)
    assert whole[: len(trained)] == trained


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_many_texts_at_once_have_the_tokens_of_each_alone(name, request):
    chat = ChatFormat.from_tokenizer(request.getfixturevalue(name))
    texts = [*TEXTS[:2], " a", "", "Größe?", f"{TEXTS[0]} <s></s> <|im_end|>\n", "x" * 700]
    assert chat.prompts_ids(texts) == [chat.prompt_ids(text) for text in texts]
    assert chat.answers_ids(texts) == [chat.answer_ids(text) for text in texts]


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_answer_ends_with_a_stop_token_and_decodes_to_itself(name, request):
    chat = ChatFormat.from_tokenizer(request.getfixturevalue(name))
    ids = chat.answer_ids("on 4 March 2019")
    assert ids[-1] in chat.stop_ids
    assert not set(ids[:-1]) & chat.stop_ids
    assert chat.decode([*ids, *chat.prompt_ids("next?")]) == "on 4 March 2019"


def test_no_system_turn(chatml):
    chat = ChatFormat.from_tokenizer(chatml)
    assert "system" not in chatml.decode(chat.prompt_ids("Hi?"))


def test_tokenizer_without_an_end_is_refused(plain):
    plain.eos_token = None
    with pytest.raises(UsageError, match="no end-of-text token"):
        ChatFormat.from_tokenizer(plain)
