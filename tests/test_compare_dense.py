"""Dense retrieval with an embedding model that is built here, and without one."""

import builtins

import numpy as np
import pytest
from model2vec import StaticModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from memo_dist.answers.search import Bm25Index
from memo_dist.compare.embedding import Embedder, embedder_stamp
from memo_dist.compare.method import NotRunError
from memo_dist.compare.retrieval import DenseSearch, fuse_ranks

TEXTS = ["the pilot boat of ada", "pears grow in sella", "three furnaces melt sand"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A static embedding model: one random vector a word."""
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {"[UNK]": 0, **{word: n for n, word in enumerate(words, start=1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("embedder") / "tiny"
    StaticModel(vectors, tokenizer).save_pretrained(folder)
    return folder


def test_nearest_passages_come_first(folder):
    search = DenseSearch(Embedder(str(folder)), TEXTS)
    assert search("Who had the pilot boat ?")[0] == 0
    assert search("sand furnaces")[0] == 2
    assert sorted(search("pears")) == [0, 1, 2]
    assert np.abs(search.similarity("pears in sella")).max() <= 1.0 + 1e-6
    words = Bm25Index(TEXTS)
    assert fuse_ranks([words.find("pears of sella", 3), search("pears sella")])[0] == 1


def test_vectors_have_unit_length_and_texts_without_words_do_no_harm(folder):
    vectors = Embedder(str(folder)).encode([*TEXTS, ""])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors[:3], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.isfinite(vectors).all()


def test_without_a_model_or_its_package_the_method_is_not_run(folder, monkeypatch, tmp_path):
    with pytest.raises(NotRunError, match=r"set compare\.embedder"):
        Embedder("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotRunError, match="cannot be loaded"):
        Embedder(str(tmp_path / "empty"))
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith(("model2vec", "sentence_transformers")):
            raise ImportError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(NotRunError, match=r"not installed: in the clone run .* -e '\.\[compare\]'"):
        Embedder(str(folder))


def test_another_model_has_another_stamp(folder, tmp_path):
    assert embedder_stamp("owner/model") == "owner/model"
    before = embedder_stamp(str(folder))
    assert before == embedder_stamp(str(folder))
    assert before != embedder_stamp(str(tmp_path))
