"""A memory and a frozen backbone mixed token by token: what it knows, and what it leaves alone.

    memo-dist demo --run RUN
    python benchmarks/fusion_logits.py RUN [--backbone smollm2-135m] [--out FILE]

Fits the gate of RUN (unless it has one for this backbone) and asks, with that one gate:

- the held-back questions about the documents: right by the memory alone (direct), by the mixture,
  and by the backbone alone;
- 102 unrelated questions (data/unrelated_questions.txt, none of which a memory is trained on):
  how often the greedy text is exactly the backbone's own;
- the same again with the entropy gate and no fitting, and in sequential order: forwards and
  seconds a question.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import machine

from memo_dist.answers.text import contains
from memo_dist.config.schema import Config
from memo_dist.evaluation.questions import Question, load_questions
from memo_dist.evaluation.statistics import bootstrap_interval
from memo_dist.fusion.backbone import find_backbone, folder_name
from memo_dist.fusion.logits.answering import FusedBank
from memo_dist.fusion.logits.gates import GATE_FILE
from memo_dist.fusion.logits.stage import fit_run_gate
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.runs import existing_run

UNRELATED = Path(__file__).parent / "data" / "unrelated_questions.txt"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--questions", type=Path, help="[RUN/demo/questions.jsonl]")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run, config = existing_run(options.run)
    config.fusion.backbone = options.backbone
    folder = run.fusion(folder_name(find_backbone(config, run.memory)))
    if not (folder / GATE_FILE).exists():
        fit_run_gate(run, config)
    bank = Bank.load(run.memory, run.reflections, config.memory.max_answer_tokens)
    questions = load_questions(options.questions or run.root / "demo" / "questions.jsonl", 0)
    report: dict[str, Any] = {"gate": atomic.read_json(folder / "gate.json"), **machine()}
    report["direct"] = _direct(bank, questions)
    for name, settings in _arms().items():
        report[name] = _arm(run, _with(config, settings), bank, questions)
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)


def _arms() -> dict[str, dict[str, Any]]:
    return {
        "learned": {"gate": "learned"},
        "learned, sequential": {"gate": "learned", "order": "sequential"},
        "entropy": {"gate": "entropy"},
        "backbone": {"gate": "constant", "constant": 0.0},
    }


def _with(config: Config, settings: dict[str, Any]) -> Config:
    return replace(config, fusion=replace(config.fusion, **settings))


def _direct(bank: Bank, questions: Sequence[Question]) -> dict[str, Any]:
    answers = bank.answer([q.question for q in questions])
    texts = [answer.text for answer in answers]
    return {**_right(questions, texts), **_refused(questions, [a.abstained for a in answers])}


def _arm(
    run: RunFolder, config: Config, bank: Bank, questions: Sequence[Question]
) -> dict[str, Any]:
    fused = FusedBank.load(run, config, bank)
    started = time.perf_counter()
    written = fused.answer([q.question for q in questions])
    seconds = (time.perf_counter() - started) / len(questions)
    forwards = sum(text.forwards for _, text in written) / len(questions)
    unrelated = UNRELATED.read_text(encoding="utf-8").splitlines()
    requests = fused.requests(unrelated)
    how = fused.settings
    mixed = fused.fusion.generate(requests, how)
    own = [fused.fusion.alone(request, how) for request in requests]
    same = [float(a.text == b.text) for a, b in zip(mixed, own, strict=True)]
    return {
        **_right(questions, [answer.text for answer, _ in written]),
        **_refused(questions, [answer.abstained for answer, _ in written]),
        "unrelated_own_text": _share(same),
        "unrelated_silent": sum(not request.mixed for request in requests) / len(requests),
        "changed": [
            {"question": q, "mixed": a.text, "backbone": b.text}
            for q, a, b in zip(unrelated, mixed, own, strict=True)
            if a.text != b.text
        ][:5],
        "seconds_per_query": round(seconds, 3),
        "backbone_forwards_per_query": round(forwards, 2),
    }


def _right(questions: Sequence[Question], texts: Sequence[str]) -> dict[str, Any]:
    rows = [
        float(contains(text, [q.answer, *q.aliases]))
        for q, text in zip(questions, texts, strict=True)
        if q.answerable
    ]
    return {"contains": _share(rows)}


def _refused(questions: Sequence[Question], abstained: Sequence[bool]) -> dict[str, Any]:
    pairs = zip(questions, abstained, strict=True)
    return {"refused": _share([float(a) for q, a in pairs if not q.answerable])}


def _share(rows: Sequence[float]) -> dict[str, Any]:
    low, high = bootstrap_interval(rows, 2000, 17)
    mean = sum(rows) / max(len(rows), 1)
    return {"share": round(mean, 4), "ci95": [round(low, 4), round(high, 4)], "n": len(rows)}


if __name__ == "__main__":
    main()
