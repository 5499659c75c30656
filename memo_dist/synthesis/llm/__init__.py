"""Reflections by a language model: the steps, their prompts and schemas."""

from memo_dist.synthesis.llm.generator import LanguageModelGenerator

__all__ = ["LanguageModelGenerator"]
