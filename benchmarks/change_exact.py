"""Updates and deletions of a bank against encodes of the final corpus, byte by byte, with kills.

    python benchmarks/change_exact.py updates [--count 10]     one chain of changes, one encode
    python benchmarks/change_exact.py forget [--count 5]       each document alone, and its receipt
    python benchmarks/change_exact.py kills [--count 20]       kill -9 in update and forget
    ... [--shards 4] [--documents 24 | --demo] [--seed 1] [--out FILE]

A scratch memory over generated documents, or over the demo's 51 with --demo, by the verbs without
Ray (here.py). Every comparison covers reflections.jsonl, bank.json, and the trained and exported
weights and the calibration of every shard. After every kill the bank that holds must be whole (the
hashes in bank.json) and answer.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from changing_corpus import SETTINGS, site, sites, state
from here import Forked, encode, memo_dist, start, succeed
from machine import machine

from memo_dist.corpus.manifest import shard_of
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.bank import Bank

QUESTION = "When was the Orlestad pumping station opened?"
Texts = dict[str, str]


def main() -> None:
    """Run one part; exit 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("updates", "forget", "kills"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.count = options.count or {"updates": 10, "forget": 5, "kills": 20}[options.part]
    part: Callable[..., dict[str, Any]] = globals()[f"_{options.part}"]
    with tempfile.TemporaryDirectory(prefix="memo-change-") as name:
        report = part(Path(name), options, random.Random(options.seed))
    kept = ("part", "count", "shards", "documents", "demo", "seed")
    report |= {"options": {name: getattr(options, name) for name in kept}, **machine()}
    print(json.dumps(report, indent=2))
    if options.out:
        atomic.write_json(options.out, report)
    sys.exit(0 if report["equal"] else 1)


def _first(folder: Path, options: argparse.Namespace) -> tuple[Texts, RunFolder]:
    made = sites(options.documents)
    texts = _demo() if options.demo else {f"{k}.md": _titled(v) for k, v in made.items()}
    run = encode(_write(folder / "corpus", texts), folder / "run", *_settings(options))
    return texts, run


def _demo() -> Texts:
    source = Path(str(files("memo_dist.demo") / "data" / "documents"))
    return {path.name: path.read_text(encoding="utf-8") for path in source.iterdir()}


def _titled(text: str) -> str:
    """Markdown with a title that does not depend on the file's name."""
    title = text.split(" supplies")[0].removeprefix("The ")
    return f"# {title}\n\n{text}\n"


def _write(folder: Path, texts: Texts) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _settings(options: argparse.Namespace) -> tuple[str, ...]:
    return (*SETTINGS, f"corpus.shards={options.shards}")


def _equal(run: RunFolder, texts: Texts, folder: Path, options: argparse.Namespace) -> bool:
    whole = encode(_write(folder / "final", texts), folder / "whole", *_settings(options))
    same = state(run, options.shards) == state(whole, options.shards)
    shutil.rmtree(whole.root)
    return same


def _spare(texts: Texts, shards: int) -> list[str]:
    """Documents whose shard has others: a shard cannot lose its last one."""
    homes = {name: shard_of(Path(name).stem, shards) for name in texts}
    sizes = Counter(homes.values())
    return [name for name in sorted(texts) if sizes[homes[name]] > 1]


def _changed(texts: Texts, chance: random.Random, index: int, shards: int) -> Texts:
    """One more change: a document comes, goes, changes or is renamed."""
    kind = ("add", "change", "remove", "rename")[index % 4]
    name = chance.choice(_spare(texts, shards))
    new = dict(texts)
    if kind == "add":
        new[f"new-{index}.md"] = _titled(site(100 + index))
    elif kind == "change":
        new[name] = f"{new[name]}\n{site(chance.randrange(100), opened=1950 + index)}\n"
    elif kind == "remove":
        del new[name]
    else:
        new[f"renamed-{index}{Path(name).suffix}"] = new.pop(name)
    return new


def _updates(folder: Path, options: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    texts, run = _first(folder, options)
    seconds = []
    for index in range(options.count):
        texts = _changed(texts, chance, index, options.shards)
        began = time.monotonic()
        succeed("update", run.root, _write(folder / "corpus", texts))
        seconds.append(round(time.monotonic() - began, 1))
    return {"equal": _equal(run, texts, folder, options), "seconds": seconds}


def _forget(folder: Path, options: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    texts, first = _first(folder, options)
    rows = []
    for name in chance.sample(_spare(texts, options.shards), options.count):
        run = RunFolder(Path(shutil.copytree(first.root, folder / "copy")))
        began = time.monotonic()
        succeed("forget", run.root, Path(name).stem)
        seconds = round(time.monotonic() - began, 1)
        rest = {key: text for key, text in texts.items() if key != name}
        checked = memo_dist("verify", run.root)
        same = _equal(run, rest, folder, options)
        rows.append({"document": name, "equal": same, "seconds": seconds,
                     "verified": checked.returncode == 0})  # fmt: skip
        shutil.rmtree(run.root)
    return {"equal": all(row["equal"] and row["verified"] for row in rows), "forgotten": rows}


def _kills(folder: Path, options: argparse.Namespace, chance: random.Random) -> dict[str, Any]:
    texts, run = _first(folder, options)
    began = time.monotonic()
    texts = _changed(texts, chance, 0, options.shards)
    succeed("update", run.root, _write(folder / "corpus", texts))
    longest = time.monotonic() - began
    kills, silent, round_ = 0, 0, 0
    while kills < options.count:
        round_ += 1
        if round_ % 2:
            more = {f"more-{round_}.md": _titled(site(200 + round_))}  # forgotten ones are replaced
            texts = _changed({**texts, **more}, chance, round_ // 2, options.shards)
            change: tuple[str | Path, ...] = ("update", run.root, _write(folder / "corpus", texts))
        else:
            name = chance.choice(_spare(texts, options.shards))
            texts = {key: text for key, text in texts.items() if key != name}
            change = ("forget", run.root, Path(name).stem)
        for _ in range(min(3, options.count - kills)):
            process, moment = start(*change, log=folder / "log"), chance.uniform(0.05, longest)
            try:
                process.wait(moment)
                longest = min(longest, moment)  # so that most kills find it at work
                break
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                silent += not _answers(run, folder)
        _finish(change)
    same = _equal(run, texts, folder, options)
    return {"equal": same and not silent, "kills": kills, "moments without a bank": silent}


def _finish(change: tuple[str | Path, ...]) -> None:
    """Run a change to its end; one that had ended before its kill has nothing left to forget."""
    done = memo_dist(*change)
    if done.returncode and "there is no document" not in done.stderr:
        raise SystemExit(done.stderr)


def _answers(run: RunFolder, folder: Path) -> bool:
    """Whether the bank that holds is whole and answers; asked in another process."""

    def ask() -> int:
        bank = Bank.load(run.memory, run.trained_reflections, verify=True)
        return 0 if len(bank.answer([QUESTION])) == 1 else 1

    return Forked(ask, folder / "log", folder / "log").wait(120) == 0


if __name__ == "__main__":
    main()
