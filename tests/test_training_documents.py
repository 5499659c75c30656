"""``train.source=documents``: raw text as examples with loss on every token."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from memo_dist.corpus.types import Document
from memo_dist.errors import UsageError
from memo_dist.models.scratch import train_tokenizer
from memo_dist.training.documents import tokenize_documents

TEXT = "The Tarn plant opened in 2019. " * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([TEXT], 300, folder)
    return AutoTokenizer.from_pretrained(folder)


def test_every_token_but_the_first_of_a_document_is_trained_once(tokenizer):
    documents = [Document("a", "Tarn", TEXT), Document("b", "Oder", "Ice is made there.")]
    examples = tokenize_documents(documents, tokenizer, 50)
    assert examples.lengths.max() == 50
    assert set(examples.prompts.tolist()) == {1}
    expected = []
    for document in documents:
        title = "" if document.title in document.text else f"{document.title}\n\n"
        ids = tokenizer.encode(title + document.text.strip(), add_special_tokens=False)
        expected += [*ids[1:], tokenizer.eos_token_id]
    trained = np.concatenate([examples.tokens(i)[1:] for i in range(len(examples))])
    assert trained.tolist() == expected
    for index in range(1, len(examples) - 1):
        assert examples.tokens(index)[0] == examples.tokens(index - 1)[-1]


def test_no_text_is_a_usage_error(tokenizer):
    with pytest.raises(UsageError, match=r"train\.source=documents"):
        tokenize_documents([], tokenizer, 50)
