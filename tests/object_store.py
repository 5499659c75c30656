"""A real S3 server over HTTP (moto, in threads of the tests' process), and buckets in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto.backends import get_backend
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from memo_dist.io.store import StoreUrl

KEY, SECRET = "AKIATESTSTORE0123456", "secret-of-the-store-0123456789"
_ACCOUNT = "123456789012"


class Bucket:
    """A new bucket; objects are put into the server's own memory, whatever their keys are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._backend: Any = get_backend("s3")[_ACCOUNT]["aws"]
        self._backend.create_bucket(name, "us-east-1")

    def url(self, prefix: str = "") -> StoreUrl:
        return StoreUrl("s3", self.name, prefix)

    def put(self, key: str, data: bytes | str) -> None:
        value = data.encode() if isinstance(data, str) else data
        self._backend.put_object(self.name, key, value)

    def upload(self, folder: Path, prefix: str) -> StoreUrl:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.url(prefix)

    def remove(self, key: str) -> None:
        self._backend.delete_object(self.name, key)

    def names(self) -> list[str]:
        return sorted(self._backend.buckets[self.name].keys.keys())

    def read(self, key: str) -> bytes:
        return self._backend.get_object(self.name, key).value


@contextmanager
def serve() -> Iterator[str]:
    """A server; yields its URL. The environment names it, with a login, while the block lasts."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()
