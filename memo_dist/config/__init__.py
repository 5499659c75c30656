"""Configuration: schema, strict loading, rules that span fields, and the hash of each stage."""

from memo_dist.config.load import load_config, stored_yaml, to_yaml
from memo_dist.config.schema import Config

__all__ = ["Config", "load_config", "stored_yaml", "to_yaml"]
