"""``generator.kind``: from a name to what writes the reflections."""

from __future__ import annotations

from functools import partial

from memo_dist.config.model_schema import BUILT_IN
from memo_dist.config.schema import Config, SynthesisConfig
from memo_dist.llm.backends.recorded import recorded_origin
from memo_dist.synthesis.types import Generator
from memo_dist.synthesis.worker import GeneratorFactory


def generator_factory(config: Config) -> GeneratorFactory:
    """A factory that workers can import and call; ``generator.kind`` was checked by the rules.

    Raises:
        UsageError: the recording cannot be read, or names another model.
    """
    if config.generator.kind == "recorded":
        model, seed = recorded_origin(config.generator, config.run.seed)
        return partial(_model, config.synthesis, model, seed, config.corpus.trusted)
    if config.generator.kind not in BUILT_IN:
        model, seed = config.generator.model, config.run.seed
        return partial(_model, config.synthesis, model, seed, config.corpus.trusted)
    built_in = _writer if config.generator.kind == "writer" else _rules
    return partial(built_in, config.synthesis, config.run.seed)


def _rules(settings: SynthesisConfig, seed: int) -> Generator:
    from memo_dist.synthesis.rules import RulesGenerator

    return RulesGenerator(settings, seed)


def _writer(settings: SynthesisConfig, seed: int) -> Generator:
    from memo_dist.synthesis.writer.generator import WriterGenerator

    return WriterGenerator(settings, seed)


def _model(settings: SynthesisConfig, model: str, seed: int, trusted: bool) -> Generator:
    from memo_dist.synthesis.prompted.generator import LanguageModelGenerator

    return LanguageModelGenerator(settings, model, seed, trusted)
