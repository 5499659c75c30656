"""Reflections by a language model: the steps, their prompts and schemas."""

from memo_dist.synthesis.prompted.generator import LanguageModelGenerator

__all__ = ["LanguageModelGenerator"]
