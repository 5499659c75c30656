"""``memo-dist fuse RUN --mode logits``: fit the gate between a run's memory and a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from memo_dist.config.schema import Config
from memo_dist.errors import RunError
from memo_dist.fusion.backbone import find_backbone, folder_name
from memo_dist.fusion.logits.answering import FusedBank, check_mixes, gate_identity
from memo_dist.fusion.logits.fitting import Example, Fitted, fit_gate
from memo_dist.fusion.logits.gates import FEATURES, GATE_CARD, GATE_FILE, ConstantGate
from memo_dist.fusion.types import Request
from memo_dist.io import atomic
from memo_dist.io.marker import HASHES, hashes
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank
from memo_dist.memory.calibration import is_abstention
from memo_dist.memory.manifest import load_manifest
from memo_dist.memory.provenance import check_same_reflections
from memo_dist.models.identity import BaseModel
from memo_dist.observability.progress import progress
from memo_dist.synthesis.rules.abstain import outside_questions
from memo_dist.synthesis.types import Reflection
from memo_dist.training.prepare import HELD_OUT


def fit_run_gate(
    run: RunFolder, config: Config, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Path, Fitted]:
    """Fit and save a learned gate for the run's bank and ``fusion.backbone``.

    Returns:
        The folder it was written to, and the gate.

    Raises:
        RunError: the run held nothing out, or its memory knows none of it.
        UsageError: the run holds other reflections than its memory was trained on; see
            :meth:`FusedBank.load`.
    """
    manifest = load_manifest(run.memory)
    check_same_reflections(manifest, run.reflections)
    base = find_backbone(config, run.memory)
    check_mixes(run)
    fused = FusedBank.load(run, config, Bank.of_run(run, config), gate=ConstantGate(0.5))
    questions, answers = _held_out(run, [entry.id for entry in manifest.shards], config)
    requests = fused.requests(questions, config.evaluate.batch_size)
    examples = chosen_examples(requests, answers, config.fusion.examples)
    with progress(len(examples), "fit gate", unit="examples") as report:
        try:
            fitted = fit_gate(
                fused.fusion,
                examples,
                config.memory.max_answer_tokens,
                lambda done: report.advance(),
                should_stop,
            )
        except ValueError as error:
            raise RunError(f"no gate can be fitted: {error}") from error
    folder = run.fusion(folder_name(base))
    identity = gate_identity(base, manifest, run.memory)
    fitted.gate.save(folder, identity)
    named = {HASHES: hashes(folder, [GATE_FILE])}
    atomic.write_json(folder / GATE_CARD, {**_card(fitted, base, identity), **named})
    return folder, fitted


def chosen_examples(
    requests: Sequence[Request], answers: Sequence[str | None], limit: int
) -> list[Example]:
    """All gold answers, and the ``limit`` questions from outside that tell a gate most.

    Where a memory is silent no gate is asked, and a good memory is silent on nearly all of these
    questions. So those on which it speaks come first; then those on which it had an answer of which
    it was not sure enough, the surest first, as if it had spoken. Questions that it said it does
    not know are of no use.

    Args:
        requests: with the memories' beliefs.
        answers: gold answers; None: from outside.
        limit: of questions from outside.
    """
    pairs = list(zip(requests, answers, strict=True))
    inside = [Example(request, answer) for request, answer in pairs if answer is not None]
    outside = [request for request, answer in pairs if answer is None]
    spoken = [request for request in outside if request.mixed]
    unsure = [_spoken(request) for request in outside if not request.mixed]
    unsure.sort(key=_surest, reverse=True)
    pairs_outside = [(r, False) for r in spoken] + [(r, True) for r in unsure if r.mixed]
    return [*inside, *(Example(r, None, unsure=u) for r, u in pairs_outside[:limit])]


def _spoken(request: Request) -> Request:
    """The request as if every memory with an answer were sure enough of it."""
    drafts = [belief.draft for belief in request.beliefs]
    return request.with_silence([not draft or is_abstention(draft) for draft in drafts])


def _surest(request: Request) -> float:
    """The highest confidence among the memories that speak."""
    return max((b.confidence for b in request.beliefs if not b.silent), default=0.0)


def _held_out(
    run: RunFolder, shards: Sequence[int], config: Config
) -> tuple[list[str], list[str | None]]:
    """Questions and gold answers (None: from outside): ``fusion.examples`` answers at most.

    Outside are all held-out abstention questions of the run, and the fixed list of questions about
    the world at large.
    """
    rows = [
        Reflection.from_json(row)
        for shard in shards
        for row in atomic.read_jsonl(run.train(shard) / HELD_OUT)
    ]
    inside = [row for row in rows if row.kind != "abstain"][: config.fusion.examples]
    if not inside:
        raise RunError(
            "this run held no answers out, so there is nothing to fit a gate on: train it with"
            " memory.calibration_facts above 0, or use fusion.gate=entropy"
        )
    abstain = [row.question for row in rows if row.kind == "abstain"]
    outside = dict.fromkeys([*abstain, *outside_questions()])
    questions = [*(row.question for row in inside), *outside]
    return questions, [*(row.answer for row in inside), *[None] * len(outside)]


def _card(fitted: Fitted, base: BaseModel, identity: dict[str, str]) -> dict[str, object]:
    weights = [round(float(w), 6) for w in fitted.gate.weights]
    return {
        "backbone_name": base.name,
        **identity,
        "weights": dict(zip(FEATURES, weights, strict=True)),
        "bias": round(float(fitted.gate.bias), 6),
        "examples": fitted.examples,
        "nats_per_token": fitted.loss,
    }
