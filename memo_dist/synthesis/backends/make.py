"""``generator.kind``: from a name to its backends."""

from __future__ import annotations

from pathlib import Path

from memo_dist.config.schema import GeneratorConfig
from memo_dist.synthesis.backends.base import Backend

LOCAL_KINDS = ("embedded", "transformers")
"""Kinds that compute in the worker: a worker needs a core of its own."""


def make_backends(config: GeneratorConfig) -> list[Backend]:
    """One backend an endpoint, all equal.

    Raises:
        UsageError: the key's variable is not set, the recording or the model cannot be read.
    """
    if config.kind == "openai":
        from memo_dist.synthesis.backends.openai import OpenAIBackend

        return [OpenAIBackend(config, url) for url in config.urls]
    if config.kind == "anthropic":
        from memo_dist.synthesis.backends.anthropic import SERVICE, AnthropicBackend

        return [AnthropicBackend(config, url) for url in config.urls or [SERVICE]]
    if config.kind == "transformers":
        from memo_dist.synthesis.backends.transformers import TransformersBackend

        return [TransformersBackend(config)]
    from memo_dist.synthesis.backends.recorded import RecordedBackend

    return [RecordedBackend(Path(config.recording))]


def check_key(config: GeneratorConfig) -> None:
    """Refuse to start without the key that the endpoints need.

    Raises:
        UsageError: the variable that ``generator.api_key_env`` names is not set here.
    """
    if config.kind in ("openai", "anthropic"):
        from memo_dist.synthesis.backends.http import read_key

        read_key(config)
