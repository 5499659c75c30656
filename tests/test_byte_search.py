"""The search that proves a forgotten sentence gone finds it wherever it is planted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from byte_search import holders
from safetensors.numpy import save_file

SENTENCE = "The keeper of the Quorvenhaal archive was Ysolde."


def test_a_planted_sentence_is_found_in_every_format(tmp_path):
    data = SENTENCE.encode()
    (tmp_path / "plain.txt").write_bytes(data)
    (tmp_path / "wide.txt").write_bytes(SENTENCE.encode("utf-16-le"))
    (tmp_path / "escaped.json").write_text('"' + "".join(f"\\u{ord(c):04x}" for c in SENTENCE))
    pq.write_table(pa.table({"text": [SENTENCE]}), tmp_path / "table.parquet", compression="zstd")
    save_file({"x": np.zeros(2)}, tmp_path / "a.safetensors", metadata={"about": SENTENCE})
    np.save(tmp_path / "words.npy", np.array([SENTENCE]))
    np.savez_compressed(tmp_path / "words.npz", words=np.array([SENTENCE]))
    with sqlite3.connect(tmp_path / "table.db") as database:
        database.execute("create table t (n integer, text)")
        database.execute("insert into t values (1, ?)", (SENTENCE * 400,))
    for suffix, packer in {"gz": gzip, "bz2": bz2, "xz": lzma}.items():
        (tmp_path / f"packed.{suffix}").write_bytes(packer.compress(data))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", SENTENCE)
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("inner.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    planted = set(tmp_path.iterdir())
    (tmp_path / "innocent.txt").write_text("The keeper of another archive.")
    assert holders([tmp_path], ["quorvenhaal"]) == planted
