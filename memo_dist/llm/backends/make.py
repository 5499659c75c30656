"""The ``kind`` of a generator or executive: from a name to its backends."""

from __future__ import annotations

from pathlib import Path

from memo_dist.config import origin
from memo_dist.config.model_schema import BUILT_IN, EndpointConfig
from memo_dist.llm.backends.base import Backend

LOCAL_KINDS = (*BUILT_IN, "transformers")
"""Kinds that compute in the worker: a worker needs a core of its own."""
MODEL_KINDS = ("writer", "transformers")
"""Those of them that compute with a language model: a GPU of its own, where there are GPUs."""


def make_backends(config: EndpointConfig) -> list[Backend]:
    """One backend an endpoint, all equal.

    Raises:
        UsageError: the key's variable is not set, the recording or the model cannot be read.
    """
    if config.kind == "openai":
        from memo_dist.llm.backends.openai import OpenAIBackend

        return [OpenAIBackend(config, url) for url in config.urls]
    if config.kind == "anthropic":
        from memo_dist.llm.backends.anthropic import SERVICE, AnthropicBackend

        return [AnthropicBackend(config, url) for url in config.urls or [SERVICE]]
    if config.kind == "transformers":
        from memo_dist.llm.backends.transformers import TransformersBackend

        return [TransformersBackend(config)]
    from memo_dist.llm.backends.recorded import RecordedBackend

    waits = config.group == "generator"  # a synthesis ends and goes on, a conversation cannot
    return [RecordedBackend(Path(config.recording), config.group, waits)]


def check_key(config: EndpointConfig) -> None:
    """Refuse to start without the key that the endpoints need, or at somebody else's word.

    Raises:
        UsageError: the variable that ``api_key_env`` names is not set here; or only the run folder
            has named the endpoints.
    """
    origin.check_endpoint(config.group, config)
    if config.kind in ("openai", "anthropic"):
        from memo_dist.llm.backends.http import read_key

        read_key(config)
