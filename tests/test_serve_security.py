"""What a server refuses, and that it still serves after it."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from cli import memo_dist
from served import ANSWER, KNOWN, make_run, serving

from memo_dist.errors import UsageError
from memo_dist.serve.errors import ApiError
from memo_dist.serve.keys import VARIABLE, Caller, KeyRing

ADMIN, READER, ANN = "admin-secret-0123456", "reader-secret-012345", "ann-secret-012345678"
KEYS = f"boss:{ADMIN}:all; view:{READER}:read; ann:{ANN}:read,write,delete:user_id=ann"
LIMITS = (
    "serve.max_body_kb=8",
    "serve.max_question_chars=100",
    "serve.header_seconds=1.5",
    "serve.body_seconds=1.5",
    "serve.max_connections=100",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("security"))


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(run, log, *LIMITS, **{VARIABLE: KEYS}) as found:
        yield found


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
        bearer = {"Authorization": f"Bearer {READER}"}
        reply = client.post("/v1/ask", json={"question": KNOWN}, headers=bearer)
        assert reply.json()["answer"] == ANSWER, "the server still serves"
        assert "Traceback" not in server.lines()


def key(secret, **more):
    return {"Authorization": f"Bearer {secret}", **more}


def post(http, content, secret=ADMIN, path="/v1/ask", **headers):
    given = {"Content-Type": "application/json", **key(secret), **headers}
    return http.post(path, content=content, headers=given)


def test_requests_without_a_key_get_nothing(http):
    for headers in ({}, key("wrong-secret-0123456"), {"Authorization": f"Basic {ADMIN}"}):
        for path in ("/v1/models", "/metrics", "/openapi.json", "/mcp", "/v1/ping/", "/nothing"):
            reply = http.get(path, headers=headers)
            assert reply.status_code == 401, path
            assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/"):
        assert http.get(path).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": f"Token {READER}"}).status_code == 200
    assert http.get("/v1/models", headers={"X-API-Key": READER}).status_code == 200


def test_rights_and_scopes_of_keys(http):
    text = {"text": "The Dornau silo holds barley."}
    assert http.post("/v1/documents", json=text, headers=key(READER)).status_code == 403
    assert http.post("/v1/consolidate", json={}, headers=key(ANN)).status_code == 403
    assert http.delete("/v1/documents/doc-0", headers=key(READER)).status_code == 403
    assert http.post("/v1/documents", json=text, headers=key(ANN)).status_code == 403
    assert http.delete("/v1/documents/doc-0", headers=key(ANN)).status_code == 403
    bob = {**text, "user_id": "bob"}
    assert http.post("/v1/documents", json=bob, headers=key(ANN)).status_code == 403
    stored = http.post("/v1/documents", json=bob, headers=key(ADMIN)).json()
    place = f"/v1/documents/{stored['document_id']}"
    for path in (place, f"{place}/history", f"/v1/events/{stored['event_id']}"):
        assert http.get(path, headers=key(ANN)).status_code == 404
    for method in ("put", "delete"):
        body = {"json": {"text": "changed"}} if method == "put" else {}
        assert http.request(method, place, headers=key(ANN), **body).status_code == 404
    mine = http.get("/v1/documents", params={"user_id": "bob"}, headers=key(ANN))
    assert mine.status_code == 403
    listed = http.get("/v1/events", headers=key(ANN)).json()["events"]
    assert not [row for row in listed if row["scope"] == {"user_id": "bob"}]
    own = {**text, "user_id": "ann"}
    assert http.post("/v1/documents", json=own, headers=key(ANN)).status_code == 202
    assert http.delete(place, headers=key(ADMIN)).status_code == 202


@pytest.mark.parametrize(
    ("content", "status", "headers"),
    [
        (b"[" * 2000 + b"]" * 2000, 400, {}),
        (b'{"question": ' + b'{"a":' * 40 + b"1" + b"}" * 41, 400, {}),
        (b'{"question": "caf\xe9"}', 400, {}),
        (b'{"question": "half \\ud83d"}', 400, {}),
        (b'{"question": NaN}', 400, {}),
        (b'{"question": ' + b"9" * 5000 + b"}", 400, {}),
        (b'{"question": "a"', 400, {}),
        (b"", 400, {}),
        (b'{"question": ""}', 400, {}),
        (b'{"question": "a", "colour": 1}', 400, {}),
        (b'{"question": "' + b"a" * 101 + b'"}', 400, {}),
        (b'{"question": "' + b"a" * 9000 + b'"}', 413, {}),
        (gzip.compress(b"0" * 10**6, mtime=0), 415, {"Content-Encoding": "gzip"}),
        (b'{"question": "a"}', 415, {"Content-Type": "text/plain"}),
        (b"question=a", 415, {"Content-Type": "application/x-www-form-urlencoded"}),
        (b'{"question": "a"}', 403, {"Origin": "https://elsewhere.example"}),
        (b'{"question": "a"}', 403, {"Origin": "null"}),
        (b'{"question": "a"}', 421, {"Host": "elsewhere.example"}),
        (b'{"question": "a"}', 421, {"Host": "[elsewhere"}),
        (b'{"question": "a"}', 421, {"Host": "elsewhere:999999"}),
    ],
)
def test_bad_requests_are_refused_cleanly(http, content, status, headers):
    reply = post(http, content, **headers)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["message"]
    assert "Traceback" not in reply.text
    assert "server" not in reply.headers
    assert "access-control-allow-origin" not in reply.headers


def test_a_body_without_a_length_is_counted(http):
    def endless():
        for _ in range(100):
            yield b" " * 1024

    reply = post(http, endless())
    assert reply.status_code == 413


def test_no_path_leads_out_of_the_run(http, run):
    outside = run.root.parent / "outside.txt"
    outside.write_text("secret of the house")
    for name in (
        "../../outside.txt",
        "..%2f..%2foutside.txt",
        "%2e%2e/%2e%2e/outside.txt",
        "@../outside.txt",
        str(outside),
        "file%3a%2f%2f" + str(outside),
        "doc-0%00",
        "*",
    ):
        for template in ("/v1/documents/{}", "/v1/memories/{}/", "/{}", "/memories/{}"):
            url = http.base_url.copy_with(raw_path=template.format(name).encode())
            for method in ("GET", "DELETE"):
                reply = http.request(method, url, headers=key(ADMIN))
                assert reply.status_code in (400, 403, 404, 405), (name, template)
                assert "secret" not in reply.text
    bad = http.post("/v1/documents", json={"id": "../x", "text": "a text"}, headers=key(ADMIN))
    assert bad.status_code == 400
    options = {"id": "--why", "text": "a text"}
    assert http.post("/v1/documents", json=options, headers=key(ADMIN)).status_code == 400


def raw(server, data, seconds=10):
    """What the server sends back to these bytes, until it closes."""
    with socket.create_connection(server.address, timeout=seconds) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def test_malformed_http_is_refused(server, http):
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
    for data in (
        b"\x00\x01\x02\r\n\r\n",
        head + b"X: a\r\n bad: \x00\r\n\r\n",
        head + b"X: " + b"a" * 40000,
        b"GET /" + b"a" * 40000,
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ):
        assert raw(server, data).startswith(b"HTTP/1.1 4")
    twice = head + f"Authorization: Bearer {READER}\r\n".encode() * 2
    assert raw(server, twice + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_slow_clients_are_cut_off(server, http):
    body = b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    body += f"Authorization: Bearer {READER}\r\nContent-Length: 50\r\n\r\n".encode()

    def trickle(start):
        began = time.monotonic()
        with socket.create_connection(server.address, timeout=20) as connection:
            connection.sendall(start)
            try:
                while time.monotonic() - began < 15:
                    connection.sendall(b"a")
                    connection.settimeout(0.3)
                    try:
                        if not connection.recv(65536):
                            break
                    except TimeoutError:
                        continue
            except (BrokenPipeError, ConnectionResetError):
                pass
        return time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        starts = (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", body, b"")
        assert all(seconds < 12 for seconds in pool.map(trickle, starts))


def test_many_connections_do_not_stop_the_server(server, http):
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(server.address)) for _ in range(300)]
        assert raw(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(
            (b"HTTP/1.1 503", b"HTTP/1.1 200")
        )
        assert len(held) == 300


def test_a_limit_of_requests_and_tls(run, tmp_path):
    cert, secret = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", secret, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = (f"serve.tls_cert={cert}", f"serve.tls_key={secret}", "serve.requests_per_minute=5")
    with serving(run, tmp_path / "log", *settings) as server:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=server.url, verify=trusted, timeout=60) as http:
            codes = [http.get("/v1/models").status_code for _ in range(7)]
            assert codes == [200] * 5 + [429] * 2
            assert int(http.get("/v1/models").headers["retry-after"]) >= 1
            assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("settings", "keys", "message"),
    [
        (["serve.host=0.0.0.0"], "", "set keys in MEMO_DIST_SERVE_KEYS"),
        (["serve.tls_cert=none.pem"], "", "set both"),
        (["serve.tls_cert=none.pem", "serve.tls_key=none.pem"], "", "is not a file"),
        (["serve.modes=[telepathy]"], "", "unknown mode 'telepathy'"),
        (["serve.modes=[protocol]"], "", "executive.kind"),
        ([], "boss:short:all", "16 or more characters"),
        (["serve.host=203.0.113.7"], f"boss:{ADMIN}:all", "cannot listen"),
    ],
)
def test_wrong_settings_end_the_verb(run, settings, keys, message):
    done = memo_dist("serve", run.root, *settings, **{VARIABLE: keys})
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not keys or keys.split(":")[1] not in done.stderr


def test_a_run_without_a_memory_is_refused(tmp_path):
    assert memo_dist("serve", tmp_path / "none").returncode == 2
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("run:\n  seed: 1\n")
    done = memo_dist("serve", tmp_path / "run")
    assert done.returncode == 2
    assert "has no memory yet" in done.stderr


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "boss",
        f"boss:{ADMIN}",
        f"boss:{ADMIN}:fly",
        f"bo ss:{ADMIN}:all",
        f"boss:{ADMIN}:read:planet=mars",
        f"a:{ADMIN}:read;b:{ADMIN}:all",
    ],
)
def test_wrong_keys_are_refused_without_the_secret(text):
    with pytest.raises(UsageError) as caught:
        KeyRing.parse(text)
    assert ADMIN not in str(caught.value)


def test_a_caller_has_its_rights_only():
    ring = KeyRing.parse(KEYS)
    caller = ring.find(ANN)
    assert caller == Caller(
        "ann", frozenset({"read", "write", "delete"}), frozenset({("user_id", "ann")})
    )
    assert ring.find(ANN[:-1]) is None
    assert ring.find("") is None
    with pytest.raises(ApiError):
        caller.need("admin")
    with pytest.raises(ApiError):
        caller.need_scope({"user_id": "bob"})
    caller.need_scope({"user_id": "ann", "run_id": "1"})
    ring.find(ADMIN).need("admin")
