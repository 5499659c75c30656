"""What a memory still knows of forgotten documents: exact deletion beside approximate ones.

    python benchmarks/forget_audit.py --documents DIR [--count 36] [--holdout 12] [--out FILE]
        [--folder KEPT] [--set key=value ...]

With --folder a second start continues after the last command that ended.

DIR holds corpus.jsonl and questions.jsonl (`memo-dist dataset`). A third of the documents is
forgotten; all are in one shard. Arms: the memory before; `memo-dist forget` (exact); an encode
that never saw the documents; `memo-dist update` with update.policy=continue; negative preference
optimisation (NPO, 2404.05868) with a loss on documents that stay. Each is measured as it is, after
rounding to 8 and 4 bits a weight (by row, to nearest), and after 50 steps of training on documents
that stay. The verbs run without Ray (here.py).

Members are reflections of forgotten documents, others those of documents that no memory has seen.
Truth ratio: the wrong answers are those of three other questions. Forget quality compares with the
encode that never saw them.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from changing_corpus import shard_ids
from here import SCRATCH, succeed
from machine import machine

from memo_dist.answers.text import contains, rouge_l
from memo_dist.change.measures import (
    auc,
    forget_quality,
    interval,
    membership,
    privleak,
    truth_ratio,
    utility,
)
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.answering import ShardMemory
from memo_dist.memory.likelihood import known_answers, known_sentences

Pair = tuple[str, str]
SETTINGS = (*SCRATCH, "corpus.shards=1")
RELEARN_STEPS, NPO_STEPS, BATCH, BETA = 50, 120, 16, 0.1


def main() -> None:
    """Run all arms; exit 1 where exact deletion is not what it claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--count", type=int, default=36)
    parser.add_argument("--holdout", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="memo-audit-") as name:
        report = _audit(options.folder or Path(name), options)
    kept = {k: v for k, v in vars(options).items() if k in ("count", "holdout", "seed", "set")}
    report |= {"options": kept, **machine()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["bytes equal"] else 1)


class Commands:
    """Commands that run once each, also over several starts of this script.

    Args:
        folder: keeps the seconds of each that has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "seconds.json"
        self.seconds: dict[str, float] = atomic.read_json(self._path) if self._path.exists() else {}

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run one to its end, unless it has."""
        if name in self.seconds:
            return
        began = time.monotonic()
        succeed(*arguments)
        self.seconds[name] = round(time.monotonic() - began, 1)
        atomic.write_json(self._path, self.seconds)
        print(f"{name}: {self.seconds[name]} s", file=sys.stderr, flush=True)


def _audit(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    rows = list(atomic.read_jsonl(options.documents / "corpus.jsonl"))
    random.Random(options.seed).shuffle(rows)
    seen, unseen = rows[: options.count], rows[options.count :][: options.holdout]
    settings = (*SETTINGS, *options.set)
    paths = {"seen": seen, "unseen": unseen}
    for name, part in paths.items():
        atomic.write_jsonl(folder / f"{name}.jsonl", part)
    first = RunFolder(folder / "first")
    commands = Commands(folder)
    commands.run("encode", "encode", folder / "seen.jsonl", "--run", first.root, *settings)
    other = folder / "unseen"
    commands.run("unseen", "synthesize", folder / "unseen.jsonl", "--run", other, *settings)
    shards = shard_ids(first)
    gone = sorted(name for name, shard in shards.items() if shard == 0)[: options.count // 3]
    stay = [row for row in seen if row["id"] not in gone]
    atomic.write_jsonl(folder / "stay.jsonl", stay)
    asked = Asked(first, RunFolder(other), options.documents, seen, gone, shards)
    arms = {"before": ShardMemory.load(first.memory_shard(0))}
    for name in ("exact", "continued"):
        if not (folder / name).exists():
            shutil.copytree(first.root, folder / name)
    atomic.write_text(folder / "ids", "\n".join(gone))
    commands.run("exact", "forget", folder / "exact", f"@{folder / 'ids'}")
    policy = "update.policy=continue"
    commands.run("continued", "update", folder / "continued", folder / "stay.jsonl", policy)
    never = RunFolder(folder / "never saw")
    commands.run("never saw", "encode", folder / "stay.jsonl", "--run", never.root, *settings)
    seconds = {name: taken for name, taken in commands.seconds.items() if name != "unseen"}
    for name in ("exact", "continued", "never saw"):
        arms[name] = ShardMemory.load(RunFolder(folder / name).memory_shard(0))
    began = time.monotonic()
    arms["NPO"] = _npo(arms["before"], asked.members, asked.neighbours)
    seconds["NPO"] = round(time.monotonic() - began, 1)
    exact = RunFolder(folder / "exact")
    hashes = {hash_file(run.memory_shard(0) / "model.safetensors") for run in (exact, never)}
    found = {name: _variants(memory, asked) for name, memory in arms.items()}
    table = {name: _rows(found[name], found["never saw"]) for name in found}
    (receipt,) = (first.root.parent / "exact" / "memory" / "receipts").glob("*.json")
    return {
        "bytes equal": len(hashes) == 1,
        "documents": {"seen": len(seen), "forgotten": len(gone), "never encoded": len(unseen)},
        "questions": {
            k: len(getattr(asked, k)) for k in ("people", "people_stay", "members", "others")
        },
        "seconds": seconds,
        "moments of forget": atomic.read_json(receipt)["seconds"],
        "residue": atomic.read_json(receipt)["found"],
        "arms": table,
    }


class Asked:
    """What every arm is asked."""

    def __init__(  # noqa: PLR0913
        self,
        first: RunFolder,
        unseen: RunFolder,
        data: Path,
        seen: Sequence[dict[str, Any]],
        gone: Sequence[str],
        shards: dict[str, int],
    ) -> None:
        out = set(gone)
        near = {name for name, shard in shards.items() if shard == 0} - out
        questions = list(atomic.read_jsonl(data / "questions.jsonl"))
        self.people = _pairs(questions, out, "supporting_ids")
        self.people_stay = _pairs(questions, {row["id"] for row in seen} - out, "supporting_ids")
        taught = [r for r in atomic.read_jsonl(first.reflections) if r["kind"] != "abstain"]
        self.members = _pairs(taught, out, "sources")
        self.neighbours = _pairs(taught, near, "sources")
        self.others = [
            (r["question"], r["answer"])
            for r in atomic.read_jsonl(unseen.reflections)
            if r["kind"] != "abstain"
        ]
        texts = [row["text"] for row in seen if row["id"] in out]
        self.sentences = [s.strip() for text in texts for s in text.split(". ") if len(s) > 40]


def _pairs(rows: Sequence[dict[str, Any]], ids: set[str], key: str) -> list[Pair]:
    return [(r["question"], r["answer"]) for r in rows if ids.intersection(r[key])][:400]


def _variants(memory: ShardMemory, asked: Asked) -> dict[str, dict[str, Any]]:
    changes: dict[str, Callable[[ShardMemory], ShardMemory]] = {
        "as it is": lambda m: m,
        "8 bits": lambda m: _rounded(m, 8),
        "4 bits": lambda m: _rounded(m, 4),
        "relearned": lambda m: _relearned(m, asked.neighbours),
    }
    return {name: _measured(change(memory), asked) for name, change in changes.items()}


def _measured(memory: ShardMemory, asked: Asked) -> dict[str, Any]:
    """Raw numbers of one model: likelihoods, hits, truth ratios."""
    people = known_answers(memory, asked.people)
    wrong = [known_answers(memory, _wrong(asked.people, step)) for step in (1, 2, 3)]
    ratios = [truth_ratio(k, others) for k, *others in zip(people, *wrong, strict=True)]
    near = asked.neighbours[:100]
    stays = known_answers(memory, near)
    stay_wrong = [known_answers(memory, _wrong(near, step)) for step in (1, 2, 3)]
    stay_ratios = [truth_ratio(k, others) for k, *others in zip(stays, *stay_wrong, strict=True)]
    texts = [raw.text for raw in memory.answer([q for q, _ in near])]
    golds = [answer for _, answer in near]
    pairs = list(zip(texts, golds, strict=True))
    members, others = asked.members[:200], asked.others[:200]
    return {
        "people": _hits(memory, asked.people),
        "taught": _hits(memory, members),
        "neighbours": [contains(text, [gold]) for text, gold in pairs],
        "logprob": [known.logprob for known in people],
        "ratios": ratios,
        "utility": utility(
            [float(torch.tensor(k.logprob).exp()) for k in stays],
            [rouge_l(text, [gold]) for text, gold in pairs],
            stay_ratios,
        ),
        "members": _likelihoods(memory, members),
        "others": _likelihoods(memory, others),
        "sentences": known_sentences(memory, asked.sentences),
    }


def _wrong(pairs: Sequence[Pair], step: int) -> list[Pair]:
    """Each question with the answer of another one."""
    shift = step * max(1, len(pairs) // 4)
    return [(q, pairs[(i + shift) % len(pairs)][1]) for i, (q, _) in enumerate(pairs)]


def _hits(memory: ShardMemory, pairs: Sequence[Pair]) -> list[float]:
    raws = memory.answer([question for question, _ in pairs])
    return [contains(raw.text, [gold]) for raw, (_, gold) in zip(raws, pairs, strict=True)]


def _likelihoods(memory: ShardMemory, pairs: Sequence[Pair]) -> list[Any]:
    return list(zip(known_answers(memory, pairs), [a for _, a in pairs], strict=True))


def _rows(ours: dict[str, Any], never: dict[str, Any]) -> dict[str, Any]:
    return {name: _row(ours[name], never[name]) for name in ours}


def _row(one: dict[str, Any], never: dict[str, Any]) -> dict[str, Any]:
    scores = membership(one["members"], one["others"])
    base = membership(never["members"], never["others"])
    sentences = one["sentences"]
    return {
        "people's questions, contains": interval(one["people"]),
        "taught questions, contains": interval(one["taught"]),
        "neighbours, contains": interval(one["neighbours"]),
        "log-probability of gold": sum(one["logprob"]) / len(one["logprob"]),
        "truth ratio, KS p": forget_quality(one["ratios"], never["ratios"]),
        "utility": one["utility"],
        "membership AUC": scores,
        "PrivLeak": {k: privleak(scores[k][0], base[k][0]) for k in scores},
        "AUC of log-probabilities against never saw": auc(
            *(torch.tensor(m["logprob"]).numpy() for m in (one, never))
        ),
        "exact memorisation": sum(s.memorised for s in sentences) / len(sentences),
        "extraction strength": sum(s.extractable for s in sentences) / len(sentences),
    }


def _copy(memory: ShardMemory) -> ShardMemory:
    return ShardMemory(copy.deepcopy(memory.model), memory.tokenizer)


@torch.no_grad()
def _rounded(memory: ShardMemory, bits: int) -> ShardMemory:
    """Weights of matrices rounded to nearest, absolute maximum by row."""
    made = _copy(memory)
    most = 2 ** (bits - 1) - 1
    for weight in made.model.parameters():
        if weight.dim() == 2:
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
            weight.copy_((weight / scale).round() * scale)
    return made


def _relearned(memory: ShardMemory, pairs: Sequence[Pair]) -> ShardMemory:
    made = _copy(memory)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=5e-4)
    for step in range(RELEARN_STEPS):
        loss = -_sums(made, _batch(pairs, step))[0].sum() / BATCH / 8
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made.model.eval()
    return made


def _npo(memory: ShardMemory, gone: Sequence[Pair], stay: Sequence[Pair]) -> ShardMemory:
    made = _copy(memory)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=5e-4)
    for step in range(NPO_STEPS):
        batch = _batch(gone, step)
        with torch.no_grad():
            known = _sums(memory, batch)[0]
        ratio = _sums(made, batch)[0] - known
        loss = -2 / BETA * torch.nn.functional.logsigmoid(-BETA * ratio).mean()
        total, tokens = _sums(made, _batch(stay, step))
        (loss - total.sum() / tokens.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    made.model.eval()
    return made


def _batch(pairs: Sequence[Pair], step: int) -> list[Pair]:
    return [pairs[(step * BATCH + i) % len(pairs)] for i in range(BATCH)]


def _sums(memory: ShardMemory, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probability and number of the tokens of each answer."""
    chat = memory.chat
    rows = [(chat.prompt_ids(q), chat.answer_ids(a)) for q, a in pairs]
    longest = max(len(p) + len(a) for p, a in rows)
    ids = torch.full((len(rows), longest), chat.pad_id)
    trained = torch.zeros(len(rows), longest)
    for at, (prompt, answer) in enumerate(rows):
        ids[at, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        trained[at, len(prompt) : len(prompt) + len(answer)] = 1
    scores = memory.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    found = scores.gather(-1, ids[:, 1:, None])[..., 0] * trained[:, 1:]
    return found.sum(1), trained.sum(1)


if __name__ == "__main__":
    main()
