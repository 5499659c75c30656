"""Methods that write the corpus into the backbone itself: fine-tuning, LoRA, distilled LoRA.

They are trained by the loop that trains memories, with the run's ``train`` group, on the run's
documents (loss on all tokens) or on its reflections. What was trained on reflections is asked in
the format of the training; what was trained on documents is asked as the reader without documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from memo_dist.answers.text import after_bridge
from memo_dist.compare.forgetting import Ability, ability, forgotten, unrelated_questions
from memo_dist.compare.method import Corpus, Cost, Make, Method, NotRunError, Reply, Setting
from memo_dist.config.schema import TrainConfig
from memo_dist.errors import StoppedError
from memo_dist.evaluation.baselines import abstains, closed_book
from memo_dist.io import atomic
from memo_dist.io.hashing import hash_file, short_hash
from memo_dist.models.base import resolve_base
from memo_dist.models.reader import Generation, Reader

VERSION = "2"
"""Raise it with every change of what is trained or asked: older replies are not reused."""
COST = "cost.json"
EXAMPLES = "examples.safetensors"
SOFT = "soft.safetensors"

_RATES = {"full": 1.0, "lora": 10.0}
"""Relative learning rates: that of adapters is ten times as large (docs/training.md)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of writing a corpus into a backbone.

    Attributes:
        source: ``documents`` or ``reflections``.
        method: ``full`` or ``lora``.
        taught: the backbone itself, with the passage before it, teaches the adapters: the loss is
            the forward divergence from its ``train.teacher_top`` most probable tokens.
    """

    source: str
    method: str
    taught: bool = False


class TrainedBackbone:
    """The backbone after a training on the corpus.

    Attributes:
        name: of the row.
        identity: see :class:`memo_dist.compare.method.Method`.
    """

    def __init__(self, name: str, recipe: Recipe, setting: Setting) -> None:
        if not setting.is_local:
            raise NotRunError(f"{name} trains the reader's weights; this reader is an endpoint")
        self.name = name
        self._recipe, self._setting = recipe, setting
        self._base = resolve_base(setting.reader_name, key="--reader")
        self._train = _settings(recipe, setting.config.train, self._base.path)
        texts = ""
        if recipe.source == "reflections":
            texts = hash_file(setting.run.trained_reflections)
        self.identity = short_hash(
            [name, VERSION, asdict(recipe), asdict(self._train), self._base.weights_hash, texts,
             setting.config.run.seed, setting.config.memory.max_answer_tokens]
        )  # fmt: skip

    def prepare(self, corpus: Corpus) -> Cost:
        """Train where it is not done, measure what was forgotten, load the result."""
        from memo_dist.training.checkpoint import is_complete, read_state

        folder = corpus.folder / "training"
        final = folder / "final"
        if not is_complete(final):
            self._run(corpus, folder)
        self._reader = self._load(final)
        kept = folder / COST
        if not kept.exists():
            state = read_state(final)
            before, after = self._abilities(corpus.folder)
            stored = sum(p.stat().st_size for p in final.glob("*.safetensors")) - _probe(final)
            atomic.write_json(kept, {
                "seconds": state.seconds, "trained_tokens": state.consumed_tokens,
                "stored_bytes": stored, "before": asdict(before), "after": asdict(after),
            })  # fmt: skip
        row = atomic.read_json(kept)
        before, after = Ability(**row["before"]), Ability(**row["after"])
        return Cost(
            seconds=row["seconds"],
            trained_tokens=row["trained_tokens"],
            stored_bytes=row["stored_bytes"],
            forgetting=forgotten(before, after, len(unrelated_questions())),
            details={"nats_before": before.nats, "nats_after": after.nats},
        )

    def answer(self, questions: Sequence[str]) -> list[Reply]:
        """See :meth:`memo_dist.compare.method.Method.answer`."""
        config = self._setting.config
        if self._recipe.source == "documents":
            prompts = [closed_book(question) for question in questions]
        else:  # the tokenizer of a trained memory has the training's format as its template
            prompts = [[{"role": "user", "content": question}] for question in questions]
        size = config.evaluate.batch_size
        written = self._reader.generate(prompts, config.memory.max_answer_tokens, size)
        if self._recipe.source == "reflections":  # it learned to write the bridge first
            written = [replace(one, text=after_bridge(one.text)) for one in written]
        return [reply_of(one) for one in written]

    # -- training ------------------------------------------------------------------------------

    def _run(self, corpus: Corpus, folder: Path) -> None:
        """Train, or go on with a training that was ended.

        Raises:
            StoppedError: a stop was requested; the state is saved.
        """
        from memo_dist.cluster.rendezvous import adopt_ranks
        from memo_dist.cluster.resources import detect_resources
        from memo_dist.training.job import STOP_REQUEST, TrainJob
        from memo_dist.training.worker import train_rank

        folder.mkdir(parents=True, exist_ok=True)
        self._write_examples(corpus, folder)
        soft = folder / SOFT
        job = TrainJob(
            folder=str(folder), base=str(self._base.path), examples=str(folder / EXAMPLES),
            probe=(), train=self._train, seed=self._setting.config.run.seed,
            identity=f"{self.identity}-{corpus.identity}", threads=detect_resources().cores,
            soft=str(soft) if soft.exists() else "",
        )  # fmt: skip
        request = folder / STOP_REQUEST
        request.unlink(missing_ok=True)

        def watch(step: int, numbers: dict[str, float]) -> None:
            if self._setting.should_stop():
                request.touch()

        adopt_ranks(folder, self._setting.config.cluster.start_timeout)
        if train_rank(job.to_json(), watch) == "stopped":
            raise StoppedError(f"{self.name} is saved; run the same command again to continue")

    def _write_examples(self, corpus: Corpus, folder: Path) -> None:
        from memo_dist.models.loading import load_tokenizer
        from memo_dist.training.documents import tokenize_documents

        tokenizer = load_tokenizer(self._base.path)
        longest = self._train.micro_batch_tokens
        if self._recipe.source == "documents":
            examples = tokenize_documents(corpus.documents, tokenizer, longest)
            examples.save(folder / EXAMPLES)
            return
        self._write_reflections(corpus, folder, tokenizer)

    def _write_reflections(self, corpus: Corpus, folder: Path, tokenizer: Any) -> None:
        from memo_dist.models.chat_format import ChatFormat
        from memo_dist.synthesis.types import Reflection
        from memo_dist.training.examples import tokenize
        from memo_dist.training.teacher import lessons, make_soft_labels, passages_of

        chat = ChatFormat.from_tokenizer(tokenizer, key="--reader")
        lines = atomic.read_jsonl(self._setting.run.trained_reflections)
        rows = [Reflection.from_json(line) for line in lines]
        examples, too_long = tokenize(rows, chat, self._train.micro_batch_tokens)
        examples.save(folder / EXAMPLES)
        if not self._recipe.taught:
            return
        left_out = {row.id for row in too_long}
        used = [row for row in rows if row.id not in left_out]
        passages = passages_of(corpus.documents, corpus.chunks)
        given = lessons(used, examples.answers(), passages, chat)
        top = self._train.teacher_top
        make_soft_labels(given, self._base, top, folder / "soft").save(folder / SOFT)

    # -- asking --------------------------------------------------------------------------------

    def _load(self, final: Path) -> Reader:
        """The trained model, with the tokenizer that it is asked through."""
        from memo_dist.models.loading import load_tokenizer

        known = self._base.path if self._recipe.source == "documents" else final
        return Reader(self._trained(final), load_tokenizer(known))

    def _trained(self, final: Path) -> Any:
        from memo_dist.models.loading import load_frozen

        if self._recipe.method == "full":
            return load_frozen(final)
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(load_frozen(self._base.path), str(final))
        return adapted.merge_and_unload().eval()

    def _abilities(self, folder: Path) -> tuple[Ability, Ability]:
        """The backbone's score before and after, in its own words both times."""
        from memo_dist.models.loading import load_frozen, load_tokenizer

        questions, tokenizer = unrelated_questions(), load_tokenizer(self._base.path)
        after = ability(self._trained(folder / "training" / "final"), tokenizer, questions)
        return ability(load_frozen(self._base.path), tokenizer, questions), after


def _settings(recipe: Recipe, train: TrainConfig, base: Path) -> TrainConfig:
    """The run's recipe for this training: one rank, no measurements, no other sources."""
    from memo_dist.models.weight_files import StoredWeights
    from memo_dist.training.schedule import passes, peak_lr

    given = replace(
        train, source=recipe.source, method=recipe.method, question_loss="no",
        lr=train.lr * (_RATES[recipe.method] / _RATES[train.method]),
        teacher="", teacher_weight=1.0 if recipe.taught else train.teacher_weight,
        replay=0.0, replay_text="", anchor_kl=0.0, held_out_questions="",
        eval_steps=0, eval_minutes=0.0, eval_patience=0, eval_target=0.0, select="last",
        zero_stage=0, deepspeed="", max_stalled_starts=0,
    )  # fmt: skip
    peak = peak_lr(given, StoredWeights(base).parameters())
    return replace(given, lr=peak, epochs=passes(given, scratch=False))


def _probe(final: Path) -> int:
    """Bytes of the logits that a training keeps beside its weights."""
    path = final / "probe.safetensors"
    return path.stat().st_size if path.exists() else 0


def reply_of(written: Generation) -> Reply:
    """What the backbone wrote as a reply; one that says that it does not know is empty."""
    text = "" if abstains(written.text) else written.text
    return Reply(text, tokens_in=written.prompt_tokens, tokens_out=written.new_tokens, calls=1)


def _make(name: str, recipe: Recipe, setting: Setting) -> Method:
    return TrainedBackbone(name, recipe, setting)


sft_documents: Make = partial(_make, "sft_documents", Recipe("documents", "full"))
sft: Make = partial(_make, "sft", Recipe("reflections", "full"))
lora_documents: Make = partial(_make, "lora_documents", Recipe("documents", "lora"))
lora: Make = partial(_make, "lora", Recipe("reflections", "lora"))
distilled_lora: Make = partial(_make, "distilled_lora", Recipe("reflections", "lora", taught=True))
