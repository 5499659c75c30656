"""An outside baseline of `memo-dist compare`: the sentence that shares most words, no model."""

import re

from memo_dist.compare.method import Corpus, Cost, Reply, Setting


class NearestSentence:
    name = "nearest_sentence"
    identity = "nearest-sentence-1"  # raise it with every change: old replies are not reused

    def prepare(self, corpus: Corpus) -> Cost:
        self.sentences = [
            (set(re.findall(r"\w+", sentence.lower())), sentence, document.id)
            for document in corpus.documents
            for sentence in re.split(r"(?<=[.!?])\s+", document.text)
        ]
        return Cost()

    def answer(self, questions: list[str]) -> list[Reply]:
        return [self.one(set(re.findall(r"\w+", text.lower()))) for text in questions]

    def one(self, words: set[str]) -> Reply:
        shared, text, source = max((len(words & s[0]), s[1], s[2]) for s in self.sentences)
        return Reply(text, sources=(source,)) if shared > 1 else Reply("")


def make(setting: Setting) -> NearestSentence:
    return NearestSentence()
