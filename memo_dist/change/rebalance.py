"""``rebalance``: the documents of a bank are spread over another number of shards, exactly.

Every shard is trained again. The result equals an encode with that many shards; requests that a
language model has answered for the run are not sent again. The bank before answers until then.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from memo_dist.change.difference import bank_documents, corpus_documents, difference
from memo_dist.change.merged import refuse_merged
from memo_dist.change.pending import Pending
from memo_dist.change.update import Updated, renew
from memo_dist.config import to_yaml
from memo_dist.config.schema import Config
from memo_dist.config.stages import corpus_settings
from memo_dist.corpus.edit import reshard_corpus
from memo_dist.errors import UsageError
from memo_dist.io import atomic
from memo_dist.io.runfolder import RunFolder
from memo_dist.memory.manifest import load_manifest
from memo_dist.stages.records import EXPORT
from memo_dist.stages.state import require
from memo_dist.synthesis.stages import check_revisable


def rebalanced(config: Config, shards: int) -> Config:
    """The configuration with another number of shards."""
    return replace(config, corpus=replace(config.corpus, shards=shards))


def rebalance(run: RunFolder, config: Config, shards: int) -> Updated:
    """Bring the bank of an open run to ``shards`` shards.

    Args:
        run: the run, open for writing.
        config: its configuration.
        shards: at least 1.

    Raises:
        UsageError: there is no bank, or a shard would have no document; the old bank answers.
        RunError: a stage failed; the old bank answers.
        StoppedError, InterruptedRunError: a stop was requested; the same command continues.
    """
    require(run, EXPORT)
    refuse_merged(run)
    check_revisable(run)
    Pending.refuse(run.generations)
    if shards < 1:
        raise UsageError(f"--shards {shards}: a bank has at least one shard")
    known = bank_documents(load_manifest(run.memory))
    config = rebalanced(config, shards)
    reshard_corpus(run.corpus, corpus_settings(config))
    atomic.write_text(run.config, to_yaml(config))
    for folder in (run.root / "train").glob("shard-*"):
        if int(folder.name.removeprefix("shard-")) >= shards:
            shutil.rmtree(folder)
    exact = replace(config, update=replace(config.update, policy="retrain"))
    return renew(run, exact, difference(known, corpus_documents(run.corpus)))
