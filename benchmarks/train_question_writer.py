"""Trains the question writer that ships with the package, from people's questions.

    python benchmarks/train_question_writer.py --data SQUADSHIFTS --out FOLDER

SQUADSHIFTS holds the folders ``wiki``, ``reddit`` and ``amazon`` of SQuADShifts (Miller et al.,
2020, arXiv 2004.14444; CC BY 4.0), each with ``corpus.jsonl`` ({id, title, text}) and
``questions.jsonl`` ({id, question, answer, aliases, supporting_ids}).

One LoRA adapter (arXiv 2106.09685) learns two tasks: to write a question for a span of a
passage, and to read the answer to a question, or "Not stated", from a passage. A passage is
processed once; its questions are branches that see the passage and themselves only, so that a
question costs about 30 tokens instead of 200. The loss is taken on questions and answers.

The same data, seed and library versions give the same bytes: one thread, one pass.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from memo_dist.answers.text import word_set
from memo_dist.models.smollm2 import load_smollm2
from memo_dist.synthesis.writer.prompts import (
    NOT_STATED,
    TARGET_END,
    Manner,
    prefix,
    reader_branch,
    writer_branch,
)

SOURCES: dict[str, Manner] = {"wiki": "article", "reddit": "post", "amazon": "review"}
HELD_OUT = {"wiki": 60, "reddit": 20, "amazon": 20}
TRAINED = {"wiki": 480, "reddit": 80, "amazon": 40}
"""Passages, those with the most self-contained questions."""

RANK, ALPHA, FIRST_LAYER = 8, 16, 10
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE, WARMUP, TREES_PER_STEP = 1.5e-3, 10, 4
READER_WEIGHT = 1.5
MOST_WORDS, WRITTEN, READ, UNSTATED = 190, 5, 5, 1
MOST_ANSWER_WORDS = 8

# Questions that need the passage in sight to be understood, and what the crowd workers were told
# to write about (an author, a review), teach nothing that holds for other documents.
_LOOSE = re.compile(
    r"\b(he|she|they|it|him|her|them|his|its|their|hers|theirs|i|my|me|we|our|us|you|your|this"
    r"|that|these|those|here|there|itself|himself|themselves|authors?|posters?|reviewers?|writer"
    r"|op|users?|customers?|person|speaker|commenter|narrator|redditor|passage|article|paragraph"
    r"|text|comment|post|review|people|someone|things?|products?|items?|above|following"
    r"|mentioned)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+(?=\S)", re.IGNORECASE)
_COMMON = word_set(
    "a an the of in on at to for from by with and or is are was were be been did do does has have"
    " had what who whom whose which when where why how many much long often old far type kind"
    " name year years first most can could would will should as after before during between into"
    " about than more some any not"
)


@dataclass(frozen=True)
class Asked:
    """A person's question with its answers, the first one in ``answers`` the preferred."""

    question: str
    answers: tuple[str, ...]


@dataclass
class Passage:
    """A passage and what people asked about it."""

    id: str
    source: str
    title: str
    text: str
    asked: list[Asked] = field(default_factory=list)

    def self_contained(self) -> list[Asked]:
        """Questions that can be understood without the passage, the most specific first."""
        title = content_words(self.title)
        known = title | content_words(self.text)
        scored = []
        for asked in self.asked:
            words = content_words(asked.question)
            if len(words & known) >= 2 and _alone(asked):
                scored.append((len(words & known) + 2 * bool(words & title), asked))
        return [asked for _, asked in sorted(scored, key=lambda pair: -pair[0])]


def content_words(text: str) -> frozenset[str]:
    """Lower-case words that carry meaning."""
    return frozenset(re.findall(r"[a-z0-9][\w'’-]*", text.lower())) - _COMMON


def _alone(asked: Asked) -> bool:
    words = len(asked.question.split())
    short = len(asked.answers[0].split()) <= MOST_ANSWER_WORDS
    return 5 <= words <= 22 and short and not _LOOSE.search(asked.question)


def passages(data: Path, source: str) -> list[Passage]:
    """The passages of one source, in a fixed order."""
    found: dict[str, Passage] = {}
    for line in (data / source / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = " ".join(row["text"].split())
        found[row["id"]] = Passage(row["id"], source, _title(source, row["title"], text), text)
    for line in (data / source / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        passage = found[row["supporting_ids"][0]]
        question = " ".join(row["question"].split())
        spans = [_bare(answer) for answer in [row["answer"], *row["aliases"]]]
        answers = tuple(span for span in spans if span and span in passage.text)
        if answers and question.endswith("?"):
            passage.asked.append(Asked(question[0].upper() + question[1:], answers))
    return sorted(found.values(), key=lambda p: hashlib.sha256(p.id.encode()).hexdigest())


def _bare(answer: str) -> str:
    """An answer as a span is: one line, without article and outer punctuation."""
    return _ARTICLE.sub("", " ".join(answer.split()).strip(" .,;"))


def _title(source: str, title: str, text: str) -> str:
    """The article's title; a post's first sentence; reviews have none."""
    if source == "wiki":
        return unquote(title).replace("_", " ")
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0].rstrip(".")
    return first if source == "reddit" and len(first.split()) <= 12 else "-"


def split(data: Path) -> tuple[list[Passage], list[Passage], list[Passage]]:
    """Passages to train on, passages held out, and all that are not held out."""
    trained, held, rest = [], [], []
    for source in SOURCES:
        every = [p for p in passages(data, source) if p.asked]
        held += every[: HELD_OUT[source]]
        free = every[HELD_OUT[source] :]
        rest += free
        fit = [p for p in free if len(p.text.split()) <= MOST_WORDS]
        fit.sort(key=lambda p: -min(len(p.self_contained()), WRITTEN))
        trained += fit[: TRAINED[source]]
    return trained, held, rest


def unstated(passage: Passage, rest: list[Passage], count: int, rng: random.Random) -> list[str]:
    """Questions about other passages, close in words, that this passage does not answer."""
    same = [p for p in rest if p.source == passage.source and p.id != passage.id]
    near = [p for p in same if p.title == passage.title and p.title != "-"]
    pool = near if len(near) >= 5 else rng.sample(same, 150)
    known = content_words(f"{passage.title} {passage.text}")
    lower = passage.text.lower()
    scored = [
        (len(content_words(a.question) & known), a.question)
        for p in pool
        for a in p.asked
        if not any(answer.lower() in lower for answer in a.answers)
    ]
    scored.sort(key=lambda pair: (-pair[0], pair[1]))
    close = [question for _, question in scored[:6]]
    return rng.sample(close, min(count, len(close)))


def place(passage: Passage, asked: Asked) -> tuple[int, int]:
    """The mention of the answer that the question is about: most of its words stand around it."""
    answer, text = asked.answers[0], passage.text
    about = content_words(asked.question)
    starts = [m.start() for m in re.finditer(re.escape(answer), text)]
    best = max(starts, key=lambda s: len(about & content_words(text[max(0, s - 150) : s + 150])))
    return best, best + len(answer)


@dataclass(frozen=True)
class Branch:
    """A task after the prefix: prompt and target tokens, and the weight of its loss."""

    prompt: list[int]
    target: list[int]
    weight: float


def branches(
    passage: Passage, rest: list[Passage], tokenizer: Any, rng: random.Random
) -> list[Branch]:
    """The tasks of one passage."""

    def branch(prompt: str, target: str, weight: float) -> Branch:
        return Branch(encode(tokenizer, prompt), encode(tokenizer, target + TARGET_END), weight)

    manner = SOURCES[passage.source]
    found = [
        branch(writer_branch(passage.text, *place(passage, a), manner), a.question, 1.0)
        for a in passage.self_contained()[:WRITTEN]
    ]
    short = [a for a in passage.asked if len(min(a.answers, key=len).split()) <= MOST_ANSWER_WORDS]
    for asked in rng.sample(short, min(READ, len(short))):
        answer = min(asked.answers, key=len)
        found.append(branch(reader_branch(asked.question), answer, READER_WEIGHT))
    for question in unstated(passage, rest, UNSTATED, rng):
        found.append(branch(reader_branch(question), NOT_STATED, READER_WEIGHT))
    return found


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids without special tokens added."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def tree_loss(model: Any, head: list[int], tasks: list[Branch]) -> tuple[torch.Tensor, float]:
    """Weighted sum of the target tokens' losses, and the sum of their weights."""
    ids, positions, owner = list(head), list(range(len(head))), [0] * len(head)
    where, targets, weights = [], [], []
    for number, task in enumerate(tasks, 1):
        first = len(ids)
        tokens = task.prompt + task.target[:-1]
        ids += tokens
        positions += range(len(head), len(head) + len(tokens))
        owner += [number] * len(tokens)
        where += range(first + len(task.prompt) - 1, first + len(tokens))
        targets += task.target
        weights += [task.weight] * len(task.target)
    owners = torch.tensor(owner)
    seen = (owners[None, :] == 0) | (owners[None, :] == owners[:, None])
    mask = torch.tril(seen)[None, None]
    hidden = model.model.model(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        attention_mask=mask,
        use_cache=False,
    ).last_hidden_state[0]
    logits = model.model.lm_head(hidden[torch.tensor(where)]).float()
    losses = cross_entropy(logits, torch.tensor(targets), reduction="none")
    each = torch.tensor(weights)
    return (losses * each).sum(), float(each.sum())


def train(data: Path, out: Path, seed: int, stop: int | None) -> None:
    """Train one pass, or its first ``stop`` steps, and write the adapter."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    folder = load_smollm2().path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    layers = list(range(FIRST_LAYER, base.config.num_hidden_layers))
    settings = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=TARGETS,
        layers_to_transform=layers,
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, settings)
    trained, _, rest = split(data)
    rng = random.Random(seed)
    rng.shuffle(trained)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    steps = len(trained) // TREES_PER_STEP
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / WARMUP, max(0.02, (steps - s) / (steps - WARMUP)))
    )
    started, tokens = time.monotonic(), 0
    losses: list[float] = []
    for step in range(min(steps, stop or steps)):
        batch = trained[step * TREES_PER_STEP : (step + 1) * TREES_PER_STEP]
        trees = [
            (encode(tokenizer, prefix(p.title, p.text)), branches(p, rest, tokenizer, rng))
            for p in batch
        ]
        total = sum(len(b.target) * b.weight for _, tasks in trees for b in tasks)
        loss = 0.0
        for head, tasks in trees:
            tokens += len(head) + sum(len(b.prompt) + len(b.target) for b in tasks)
            value, _ = tree_loss(model.base_model, head, tasks)
            (value / total).backward()
            loss += value.item() / total
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        if step % 5 == 4:
            mean = sum(losses[-5:]) / 5
            seconds = time.monotonic() - started
            print(
                f"step {step + 1}/{steps} loss {mean:.3f} {tokens} tokens {seconds:.0f} s",
                flush=True,
            )
        if step % 20 == 19:
            save(model, out)
    save(model, out)


def save(model: Any, out: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` (bfloat16)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = "smollm2-135m"
    settings.inference_mode = True
    settings.save_pretrained(out)
    settings.inference_mode = False
    written = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    written["target_modules"] = TARGETS  # peft keeps a set, whose order differs between processes
    text = json.dumps(written, indent=2, sort_keys=True)
    (out / "adapter_config.json").write_text(f"{text}\n", encoding="utf-8")
    state = get_peft_model_state_dict(model)
    stored = {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}
    save_file(stored, out / "adapter_model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of SQuADShifts")
    parser.add_argument("--out", type=Path, required=True, help="where the adapter is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, help="end after so many steps of the schedule")
    given = parser.parse_args()
    train(given.data, given.out, given.seed, given.stop)


if __name__ == "__main__":
    main()
