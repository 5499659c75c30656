"""Keys of ``serve`` and ``mcp``; none is part of a stage's identity."""

from __future__ import annotations

from dataclasses import dataclass

from memo_dist.config.keys import key

CONSOLIDATE = ("call", "after", "nightly")
"""Values of ``serve.consolidate``."""
ENGINES = ("transformers", "vllm")
"""Values of ``serve.engine``."""


@dataclass
class ServeConfig:
    """How ``serve`` and ``mcp`` answer over a network, and what they accept."""

    host: str = key("127.0.0.1", identity=False)
    """Address to listen on. Any other than a loopback address needs keys in the environment
    variable MEMO_DIST_SERVE_KEYS, or ``serve.open=yes``."""
    port: int = key(8321, between=(0, 65535), identity=False)
    """Port to listen on; 0: a free one, which the first line of the output names."""
    open: str = key("no", choices=("no", "yes"), identity=False)
    """``yes``: listen on any address without keys; everyone who reaches the port may read, write,
    delete and administer."""
    hosts: list[str] = key([], identity=False)
    """Host names that clients may use in the Host header, in addition to ``serve.host`` and the
    names of the loopback; empty with keys or ``serve.open=yes`` on another address: any."""
    tls_cert: str = key("", identity=False)
    """PEM file of the TLS certificate chain; empty: no TLS."""
    tls_key: str = key("", identity=False)
    """PEM file of the private key of ``serve.tls_cert``."""
    modes: list[str] = key(["direct"], identity=False)
    """Answering modes to load; the first one answers where a request names none."""
    batch_size: int = key(16, at_least=1, identity=False)
    """Maximum number of questions of one batch."""
    batch_wait_ms: float = key(5.0, at_least=0, identity=False)
    """Maximum time that a question waits for others to share its batch, in milliseconds."""
    answer_seconds: float = key(120.0, above=0, identity=False)
    """Maximum time of an answer, the wait included; then the request fails with status 504."""
    drain_seconds: float = key(30.0, above=0, identity=False)
    """After SIGTERM: maximum time to finish the requests in progress."""
    max_body_kb: int = key(1024, at_least=1, identity=False)
    """Maximum size of a request's body, in KiB."""
    max_question_chars: int = key(4000, at_least=1, identity=False)
    """Maximum length of a question, in characters."""
    max_json_depth: int = key(32, at_least=2, identity=False)
    """Maximum nesting of a JSON body."""
    requests_per_minute: int = key(6000, at_least=0, identity=False)
    """Maximum number of requests per key (per address without keys) and minute; 0: no limit."""
    max_concurrent: int = key(128, at_least=1, identity=False)
    """Maximum number of requests in progress; further ones get status 503."""
    max_connections: int = key(512, at_least=1, identity=False)
    """Maximum number of open connections; further ones get status 503."""
    header_seconds: float = key(10.0, above=0, identity=False)
    """Maximum time to receive a request's header."""
    body_seconds: float = key(30.0, above=0, identity=False)
    """Maximum time to receive a request's body."""
    write_seconds: float = key(30.0, above=0, identity=False)
    """A client that takes less than 16 KiB of an answer in this time, and not its rest, is cut
    off."""
    max_pending: int = key(10000, at_least=1, identity=False)
    """Maximum number of documents in the pending buffer; further writes get status 507."""
    consolidate: str = key("call", choices=CONSOLIDATE, identity=False)
    """When pending documents are trained: ``call``: on request only; ``after``: also when
    ``serve.consolidate_after`` documents wait; ``nightly``: also once a day at
    ``serve.consolidate_at``."""
    consolidate_after: int = key(50, at_least=1, identity=False)
    """Number of pending documents at which ``serve.consolidate=after`` begins."""
    consolidate_at: str = key("03:00", identity=False)
    """Local time of ``serve.consolidate=nightly``, as HH:MM."""
    scopes: str = key("trained", choices=("trained", "pending"), identity=False)
    """Texts of a scope: ``trained``: a consolidation trains weights of the scope's own below
    RUN/serve/scopes; ``pending``: they stay in the buffer."""
    scopes_loaded: int = key(50, at_least=1, identity=False)
    """Maximum number of scopes whose weights are in memory; the one used longest ago is evicted."""
    scopes_asked: int = key(8, at_least=1, identity=False)
    """Maximum number of scopes that one question is put to: ``user_id`` alone names all scopes of
    the user; the ones last written to answer."""
    engine: str = key("transformers", choices=ENGINES, identity=False)
    """What computes the answers of the run's memory: ``transformers`` in the server's process (or
    in replicas), or ``vllm``, processes of vLLM that serve the exported folders. Calibration,
    sources, tombstones and the buffer stay here."""
    vllm_command: str = key("vllm", identity=False)
    """Command of vLLM, usually the path of ``bin/vllm`` in an environment of its own."""
    vllm_args: list[str] = key([], identity=False)
    """Further words of ``vllm serve``, as [--tensor-parallel-size=2]; a later word wins."""
    vllm_cache_gb: float = key(1.0, above=0, identity=False)
    """GiB for keys and values of each vLLM process."""
    vllm_start_seconds: float = key(600.0, above=0, identity=False)
    """Maximum time for the vLLM processes of a generation to start, and to start again."""
    vllm_urls: list[str] = key([], identity=False)
    """URLs of vLLM servers that run already, as [http://10.1.0.5:8000/v1]; empty: the server starts
    vLLM on this machine. docs/serving.md has the commands that start them."""
    vllm_api_key_env: str = key("", identity=False)
    """Name of the environment variable with the API key of ``serve.vllm_urls``; empty: none."""
    replicas: int = key(0, at_least=0, identity=False)
    """Replicas of the memory that answer, as a deployment of Ray Serve on this machine or on
    ``cluster.address`` (extra ``serve-ray``); 0: the server's process answers itself."""
    max_replicas: int = key(0, at_least=0, identity=False)
    """Maximum number of replicas where Ray Serve scales them with the load; ``serve.replicas`` is
    then the minimum. 0: the number is fixed."""
    replica_cpus: float = key(1.0, above=0, identity=False)
    """Cores that Ray reserves for a replica; fractions share a core."""
    replica_gpus: float = key(0.0, at_least=0, identity=False)
    """GPUs that Ray reserves for a replica. 0.5: two replicas share a GPU; Ray does not limit what
    each takes of its memory. Above 1: whole numbers."""
    target_batches: float = key(1.0, above=0, identity=False)
    """Batches in progress per replica that autoscaling aims at."""
    scale_up_seconds: float = key(30.0, at_least=0, identity=False)
    """How long the load must be high before replicas are added."""
    scale_down_seconds: float = key(600.0, at_least=0, identity=False)
    """How long the load must be low before replicas are removed."""
    replica_start_seconds: float = key(600.0, above=0, identity=False)
    """Maximum time to place replicas and load the memory, and to load a new generation in all."""
    log_questions: bool = key(False, identity=False)
    """Write questions into the log; by default the log holds neither questions nor texts."""
