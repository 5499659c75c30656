"""Configuration of language model services: the generator and the executive, and its protocol.

The help text of a field is the docstring under it, as in :mod:`memo_dist.config.schema`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memo_dist.config.keys import key


@dataclass
class EndpointConfig:
    """A language model service: its location, how replies are checked, how often to retry."""

    group: ClassVar[str] = ""
    # The name of the group in the configuration: messages name its keys.
    kind: str = ""
    """API of the service."""
    attempts: int = key(1, at_least=1)
    """Maximum number of replies per request until one is valid."""
    retries: int = key(0, at_least=0, identity=False)
    """Maximum number of retries per request after server errors and timeouts."""
    patience: float = key(600.0, above=0, identity=False)
    """Seconds without a reply from any endpoint after which the work ends."""
    model: str = ""
    """Name of the model at its endpoint; for ``transformers``, a folder or hub id."""
    structured: str = key("server", choices=("server", "prompt"))
    """``server``: the server constrains replies to the JSON schema; ``prompt``: the prompt contains
    the schema. Replies are validated in both cases."""
    thinking_tokens: int = key(0, at_least=0, identity=False)
    """Tokens added to the length limit of every reply, for models whose limit also counts what they
    think before they reply (gpt-oss, Qwen3, DeepSeek-R1, o-series)."""
    urls: list[str] = key([], identity=False)
    """Base URLs of equivalent endpoints (``http://127.0.0.1:8000/v1``); empty: the default URL of
    ``kind``."""
    api_key_env: str = key("", identity=False)
    """Name (not value) of the environment variable that holds the API key; empty: no key is
    sent."""
    recording: str = key("", identity=False)
    """For ``kind=recorded``: a file with one JSON object per line (``key`` and ``text``), also
    ``.jsonl.gz`` and ``.jsonl.xz``; or, for the generator, a folder where prompts are written and
    replies are read."""
    max_in_flight: int = key(64, at_least=1, identity=False)
    """Maximum number of concurrent requests over all workers and endpoints; the actual number
    adapts to the endpoints."""
    requests_per_minute: float = key(0.0, at_least=0, identity=False)
    """Maximum number of requests per minute over all workers; 0: no limit."""
    tokens_per_minute: float = key(0.0, at_least=0, identity=False)
    """Maximum number of prompt and reply tokens per minute over all workers; 0: no limit."""
    request_timeout: float = key(300.0, above=0, identity=False)
    """Seconds to wait for a complete reply."""
    connect_timeout: float = key(10.0, above=0, identity=False)
    """Seconds to wait for a connection."""
    hedge_after: float = key(0.0, at_least=0, identity=False)
    """Multiple of the usual latency after which a slow request is sent a second time; 0: never."""
    hedge_fraction: float = key(0.02, fraction=True, identity=False)
    """Maximum fraction of requests that are sent a second time."""


BUILT_IN = ("rules", "writer")
"""Values of ``generator.kind`` that need neither a service nor ``generator.model``."""


@dataclass
class GeneratorConfig(EndpointConfig):
    """Generator of the reflections. Only kind, model, structured and attempts change them."""

    group: ClassVar[str] = "generator"
    kind: str = key("rules", choices=(*BUILT_IN, "openai", "anthropic", "transformers", "recorded"))
    """``rules`` (built-in rules, no service), ``writer`` (a built-in small model that learned from
    people's questions, no service), ``openai`` (any server with that API), ``anthropic``,
    ``transformers`` (a model in this process), ``recorded`` (replies in files)."""
    attempts: int = key(4, at_least=1)
    """Maximum number of replies per request until one is valid, including a repair turn."""
    retries: int = key(8, at_least=0, identity=False)
    """Maximum number of retries per request after server errors and timeouts; rate limits do not
    count."""
    patience: float = key(600.0, above=0, identity=False)
    """Seconds without a reply from any endpoint after which the run stops; it can be resumed."""
    max_failed_fraction: float = key(0.2, fraction=True, identity=False)
    """Maximum fraction of a step's requests without a valid reply; above it the step fails. Applies
    from 50 requests on."""
    tokens_per_second: float = key(50.0, above=0, identity=False)
    """Assumed speed of one reply, in tokens per second: ``--dry-run`` derives its hours from it
    until the run's own replies tell the speed."""
    price_prompt: float = key(0.0, at_least=0, identity=False)
    """Price per million uncached prompt tokens."""
    price_cached: float = key(0.0, at_least=0, identity=False)
    """Price per million prompt tokens from the server's prefix cache."""
    price_completion: float = key(0.0, at_least=0, identity=False)
    """Price per million reply tokens."""
    budget_tokens: int = key(0, at_least=0, identity=False)
    """Number of prompt and reply tokens after which the synthesis stops (exit code 75); 0: no
    limit."""
    budget_money: float = key(0.0, at_least=0, identity=False)
    """Cost of the synthesis, in the unit of the prices, after which it stops (exit code 75); 0: no
    limit."""
    drain_seconds: float = key(20.0, at_least=0, identity=False)
    """Seconds to wait for the requests in flight when a stop is requested."""


@dataclass
class ExecutiveConfig(EndpointConfig):
    """The frozen language model that queries the memory (``ask --mode protocol``)."""

    group: ClassVar[str] = "executive"
    kind: str = key("none", choices=("none", "openai", "anthropic", "transformers", "recorded"))
    """``none``, ``openai`` (any server with that API), ``anthropic``, ``transformers`` (a model in
    this process), ``recorded`` (replies in a file)."""
    attempts: int = key(2, at_least=1)
    """Maximum number of replies per call until one is valid, including a repair turn. If none is
    valid, the call counts as failed and the protocol continues."""
    retries: int = key(4, at_least=0)
    """Maximum number of retries per call after server errors and timeouts; rate limits do not
    count."""
    patience: float = key(120.0, above=0)
    """Seconds without a reply from any endpoint after which the command ends."""
    max_reply_tokens: int = key(1024, at_least=64)
    """Maximum length of a reply of the executive, in tokens."""
    temperature: float = key(0.0, at_least=0)
    """Sampling temperature; 0 is greedy."""


@dataclass
class ProtocolConfig:
    """How the executive queries the memory."""

    variant: str = key("full", choices=("full", "one_turn", "multi_turn"))
    """``full``: grounding, entity identification, answer seeking, synthesis; ``one_turn``: one
    round of questions, then the answer; ``multi_turn``: a plain conversation."""
    wordings: int = key(3, at_least=1)
    """Number of wordings of each question to the memory; the majority answer counts."""
    questions: int = key(6, at_least=1)
    """Maximum number of questions to the memory per turn."""
    identify_turns: int = key(7, at_least=0)
    """Maximum number of turns of entity identification."""
    seek_turns: int = key(8, at_least=0)
    """Maximum number of turns of answer seeking."""
    pivots: int = key(2, at_least=0)
    """Maximum number of changes of the candidate during answer seeking."""
    prune_after: int = key(2, at_least=1)
    """Number of consecutive unanswered questions about a candidate after which it is dropped."""
    idle_turns: int = key(2, at_least=1)
    """Number of consecutive turns without a new question or a valid reply after which a phase
    ends."""
    max_calls: int = key(17, at_least=2)
    """Maximum number of calls of the executive per user question, including the final synthesis."""
    max_questions: int = key(60, at_least=1)
    """Maximum number of questions to the memory per user question; further wordings of a question
    do not count."""
    max_tokens: int = key(0, at_least=0)
    """Number of tokens of executive and memory per user question after which the final synthesis
    begins; 0: no limit."""
    max_seconds: float = key(0.0, at_least=0)
    """Seconds per user question after which the final synthesis begins; 0: no limit."""
