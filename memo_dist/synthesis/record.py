"""A finished synthesis as a recording: what its language model replied, in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.schema import Config
from memo_dist.errors import UsageError
from memo_dist.io.atomic import read_json
from memo_dist.io.checked_lines import LineTail
from memo_dist.io.runfolder import RunFolder
from memo_dist.llm.backends.recorded import readable, recorded_origin
from memo_dist.llm.recordings import SUFFIXES, Header, read_header, read_replies, write_recording
from memo_dist.synthesis.worker import REQUEST_JOURNALS, store_path


def check_record(config: Config, out: Path) -> None:
    """Refuse what cannot be recorded, before any work.

    Raises:
        UsageError: the generator has no requests, or the file's name has another suffix.
    """
    if config.generator.kind in BUILT_IN:
        raise UsageError(f"--record: generator.kind={config.generator.kind} sends no requests")
    if not out.name.endswith(SUFFIXES):
        raise UsageError(f"--record {out}: the name has to end with one of {', '.join(SUFFIXES)}")


def record(run: RunFolder, config: Config, out: Path, note: str) -> int:
    """Write the replies of a complete synthesis; those that are in ``out`` already stay.

    Only a request that failed in ``out`` gets what this run brought.

    Args:
        run: the run folder.
        config: its configuration.
        out: a recording, new or of the same model, seed and prompt versions.
        note: the licence of the replies and the like; empty: as it is in ``out``.

    Returns:
        The number of replies in ``out``.

    Raises:
        UsageError: ``out`` holds replies of another model, or to other prompts; the run asked none.
        OSError: ``out`` cannot be written; it is as before.
    """
    header = _header(run, config, note)
    rows: dict[str, dict[str, Any]] = {}
    if out.exists():
        with readable(out, "--record"):
            header = _joined(read_header(out), header, out)
            rows = {row["key"]: row for row in read_replies(out)}
    settled = {row["key"]: row for row in _settled(run, config)}
    if not settled:
        raise UsageError(f"--record {out}: {run.root} has asked no language model")
    rows |= {key: row for key, row in settled.items() if not _replied(rows.get(key))}
    return write_recording(out, header, (rows[key] for key in sorted(rows)))


def _header(run: RunFolder, config: Config, note: str) -> Header:
    generator = config.generator
    model, seed = generator.model, config.run.seed
    if generator.kind == "recorded":
        model, seed = recorded_origin(generator, seed)
    date = read_json(run.run_json)["launches"][0]["time"][:10]
    settings = read_json(run.synth / "manifest.json")["settings"]
    steps = {name: settings[f"version of step {name}"] for name in config.synthesis.steps}
    return Header(model, seed, date, note, steps)


def _joined(old: Header | None, new: Header, out: Path) -> Header:
    """The header of both together."""
    if old is None or (old.model, old.seed) != (new.model, new.seed):
        was = "replies without a header" if old is None else f"{old.model}, seed {old.seed}"
        raise UsageError(f"--record {out} holds {was}, not {new.model}, seed {new.seed}")
    for step, version in new.steps.items():
        if old.steps.get(step, version) != version:
            raise UsageError(
                f"--record {out} answers version {old.steps[step]} of step {step}, the run has"
                f" {version}: write another file"
            )
    return Header(
        model=new.model,
        seed=new.seed,
        date=min(filter(None, (old.date, new.date))),
        note=new.note or old.note,
        steps={**old.steps, **new.steps},
    )


def _settled(run: RunFolder, config: Config) -> Iterator[dict[str, Any]]:
    """A row for each request that the run has settled; of two the first journal's."""
    seen: set[str] = set()
    for name in config.synthesis.steps:
        journals = sorted(run.step(name).glob(REQUEST_JOURNALS))
        for path in (store_path(run, name), *journals):
            for row in LineTail(path).new_rows():
                if row["final"] and row["key"] not in seen:
                    seen.add(row["key"])
                    yield _reply(row)


def _replied(row: dict[str, Any] | None) -> bool:
    """Whether a recording's row holds a reply: neither nothing nor a failure."""
    return row is not None and row.get("outcome", "ok") == "ok"


def _reply(row: dict[str, Any]) -> dict[str, Any]:
    if row["outcome"] != "ok":
        return {name: row[name] for name in ("key", "outcome", "reason")}
    return {name: row[name] for name in ("key", "text", "finish_reason")}
