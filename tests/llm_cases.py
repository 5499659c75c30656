"""Documents, pairs and scripted replies for the tests of the language model steps."""

import json
from functools import cache

from memo_dist.config import load_config
from memo_dist.corpus.types import Document
from memo_dist.llm.requests import Failure, Response
from memo_dist.synthesis.prompted import LanguageModelGenerator
from memo_dist.synthesis.types import Reflection
from memo_dist.testing.dialogues import converse, make_unit

MILL = Document(
    "mill",
    "Hollin Mill",
    "Hollin Mill is a paper mill in Garrow. It was opened in 1926 by Ada Pell. "
    "The mill has 340 workers and closed its dye house in 1971.",
    date="2031-03-14",
)
PELL = Document(
    "pell",
    "Ada Pell",
    "Ada Pell was born in 1901 in Garrow. She trained as a chemist and led the works until 1950.",
)


@cache
def settings(*overrides):
    return load_config([], list(overrides))


def unit(*documents, config=None):
    return make_unit(documents or (MILL, PELL), 0, config or settings())


def step(name, *overrides):
    generator = LanguageModelGenerator(settings(*overrides).synthesis, "toy-model", 17)
    return generator.steps()[name]


class Script:
    """Answers the requests with the given values in order; an exception's text is a failure."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, name, request):
        value = self.values.pop(0)
        if isinstance(value, str):
            return Failure(request.key, value, "", 3)
        return Response(request.key, json.dumps(value), value, "stop")


def talk(subject, inputs, *values, over=None):
    """The result and the requests of one dialogue; every scripted value must be used."""
    script = Script(*values)
    result, sent = converse(subject, over or unit(), inputs, script)
    assert not script.values
    return result, sent


def pair(question, answer, kind="direct", document=MILL, **fields):
    chunk = unit(document).chunks[0]
    made = {"sources": (document.id,), "chunks": (chunk.id,), **fields}
    return Reflection(
        question, answer, kind, shard=0, generator="g", prompt_version="p", request="r", **made
    )


def texts(rows):
    return [(row.question, row.answer) for row in rows]


def reasons(result):
    return [row.reason for row in result.rejected]


NO_LOOP = "synthesis.coverage_rounds=0"
OPENED = pair("When was Hollin Mill opened?", "1926")
WHERE = pair("Where is Hollin Mill?", "Garrow")
BORN = pair("Where was Ada Pell born?", "Garrow", document=PELL)


def row(answer, *questions, passage=1, **more):
    return {"passage": passage, "answer": answer, "questions": list(questions), **more}


def facts(*rows):
    return {"facts": list(rows)}


def user(request):
    return request.messages[-1].content


def wordings(*questions, number=1):
    return facts({"pair": number, "questions": list(questions)})
