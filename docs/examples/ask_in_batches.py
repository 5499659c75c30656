"""Answer every question of a file with the memory of a run.

    python docs/examples/ask_in_batches.py RUN QUESTIONS.jsonl > ANSWERS.jsonl

QUESTIONS.jsonl has one object per line with a field ``question``.
"""

import json
import sys
from pathlib import Path

from memo_dist import Bank


def main(run: str, file: str) -> None:
    """Print one JSON object per question, in the order of the file."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    with Bank(run) as bank:
        answers = bank.answer(questions)
    for question, answer in zip(questions, answers, strict=True):
        row = {
            "question": question,
            "answer": answer.text,
            "abstained": answer.abstained,
            "confidence": round(answer.confidence, 4),
            "sources": list(answer.sources),
        }
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
