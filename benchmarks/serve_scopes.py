"""Many scopes on disk, few in memory: RAM, the time of a cold scope, isolation in random trials.

    python benchmarks/serve_scopes.py [--scopes 1000] [--loaded 50] [--trials 10000] [--out FILE]

Scratch memories: eight are trained, and every scope's folder gets one of them (hard links). Each
user also has a pending text with a word that no other text has. A trial is a question about what
one user wrote, asked by another one; it leaks where the reply holds that user's word or answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil
from protocol_cases import OUTSIDE
from served import make_run
from trained_bank import train_shards, write_bank

from memo_dist.config import load_config
from memo_dist.serve.keys import ANYONE
from memo_dist.serve.merging import Reply
from memo_dist.serve.service import Service

KINDS = 8
AT_ONCE = 16
FACTS = [
    {f"Where is the key of locker {kind}?": f"under the {word} pot"}
    for kind, word in enumerate(("blue", "red", "green", "grey", "brown", "white", "black", "pink"))
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scopes", type=int, default=1000)
    parser.add_argument("--loaded", type=int, default=50)
    parser.add_argument("--cold", type=int, default=300, help="questions to scopes not in memory")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memo-scopes-") as name:
        found = asyncio.run(measure(Path(name), options))
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


async def measure(root: Path, options: argparse.Namespace) -> dict[str, object]:
    run = make_run(root)
    words = [f"serve.scopes_loaded={options.loaded}", "memory.base=scratch",
             f"serve.max_pending={options.scopes + 1}", "memory.max_answer_tokens=12"]  # fmt: skip
    service = Service(run, load_config((), words))
    await service.start()
    await fill(service, root, options.scopes)
    found: dict[str, object] = {"scopes": options.scopes, "loaded at most": options.loaded,
                                "RSS MB before": memory()}  # fmt: skip
    rng = random.Random(7)
    hot = range(options.loaded)
    for user in hot:
        await ask(service, user, FACTS[user % KINDS])
    found["RSS MB with the hot ones loaded"] = memory()
    found["hot"] = summary([await timed(service, rng.choice(hot)) for _ in range(options.cold)])
    cold = rng.sample(range(options.loaded, options.scopes), options.cold)
    found["cold"] = summary([await timed(service, user) for user in cold])
    found["RSS MB after the cold ones"] = memory()
    found["loaded"] = service.scopes.loaded
    found["trials"] = await trials(service, options, rng)
    await service.stop()
    return found


async def fill(service: Service, root: Path, count: int) -> None:
    """A folder with weights and a pending text for every scope."""
    models = train_shards(root / "scoped", FACTS, OUTSIDE)
    for kind, model in enumerate(models):
        write_bank(root / f"kind-{kind}" / "memory", [model], [FACTS[kind]], [f"doc-{kind}"])
    for user in range(count):
        folder = service.scopes.run(scope(user)).root
        shutil.copytree(root / f"kind-{user % KINDS}", folder, copy_function=os.link)
        text = f"The secret word of member {user} is {secret(user)}."
        await service.add(ANYONE, text, scope(user), name=f"doc-of-{user}")


async def trials(
    service: Service, options: argparse.Namespace, rng: random.Random
) -> dict[str, int]:
    """Questions of one user about another one's texts."""
    leaks = own = 0
    users = range(min(options.scopes, options.loaded + 10))
    for start in range(0, options.trials, AT_ONCE):
        pairs = [rng.sample(users, 2) for _ in range(min(AT_ONCE, options.trials - start))]
        told = await asyncio.gather(*(asked_of(service, *pair, start % 2) for pair in pairs))
        leaks += sum(told)
        own += f"{secret(pairs[0][0])}" in str(await secret_of(service, pairs[0][0], pairs[0][0]))
    return {"asked": options.trials, "leaks": leaks, "own word found": own,
            "own word asked": -(-options.trials // AT_ONCE)}  # fmt: skip


async def asked_of(service: Service, asker: int, owner: int, weights: int) -> bool:
    """Whether the reply to ``asker`` holds what only ``owner`` wrote."""
    if weights and asker % KINDS != owner % KINDS:
        (fact,) = FACTS[owner % KINDS].items()
        reply = await service.ask(ANYONE, fact[0], "", scope(asker))
        return fact[1] in reply.text
    return secret(owner) in str(await secret_of(service, asker, owner))


async def secret_of(service: Service, asker: int, owner: int) -> Reply:
    question = f"What is the secret word of member {owner}?"
    return await service.ask(ANYONE, question, "", scope(asker))


async def timed(service: Service, user: int) -> float:
    """Seconds of a question to a scope."""
    began = time.monotonic()
    await ask(service, user, FACTS[user % KINDS])
    return time.monotonic() - began


async def ask(service: Service, user: int, facts: dict[str, str]) -> None:
    ((question, answer),) = facts.items()
    reply = await service.ask(ANYONE, question, "", scope(user))
    if reply.text != answer:
        raise SystemExit(f"scope {user} answered {reply.text!r}, not {answer!r}")


def scope(user: int) -> dict[str, str]:
    return {"user_id": f"member-{user}"}


def secret(user: int) -> str:
    return f"zor{user:05d}vath"


def memory() -> float:
    """MB of this process in RAM."""
    return round(psutil.Process().memory_info().rss / 1e6, 1)


def summary(seconds: list[float]) -> dict[str, float]:
    ranked = sorted(seconds)
    return {
        "questions": len(ranked),
        "p50 ms": round(statistics.median(ranked) * 1000, 1),
        "p99 ms": round(ranked[int(len(ranked) * 0.99)] * 1000, 1),
    }


if __name__ == "__main__":
    main()
