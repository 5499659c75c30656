"""The generator seam: all steps by a language model."""

from __future__ import annotations

from memo_dist.config.schema import SynthesisConfig
from memo_dist.config.steps import StepName
from memo_dist.synthesis.prompted.abstain import AbstainStep
from memo_dist.synthesis.prompted.consolidate import ConsolidateStep
from memo_dist.synthesis.prompted.cross import CrossStep
from memo_dist.synthesis.prompted.exposures import ParaphraseStep
from memo_dist.synthesis.prompted.extract import DirectStep, entity_step, indirect_step
from memo_dist.synthesis.prompted.prompts import Prompter
from memo_dist.synthesis.prompted.roundtrip import RoundtripStep
from memo_dist.synthesis.prompted.step import Toolkit
from memo_dist.synthesis.prompted.verify import VerifyStep
from memo_dist.synthesis.types import RequestStep

VERSION = "2"


class LanguageModelGenerator:
    """Writes reflections by asking a language model; it knows no backend.

    The engine runs each step's ``dialogue`` and sends its requests.
    """

    version = VERSION

    def __init__(
        self, settings: SynthesisConfig, model: str, seed: int, trusted: bool = True
    ) -> None:
        """Keep the settings.

        Args:
            settings: group ``synthesis``.
            model: the model's name at its endpoint; part of every request and reflection.
            seed: passed to backends that take one.
            trusted: whether the documents are the user's own (``corpus.trusted``).
        """
        self.name = model
        prompter = Prompter(model, seed, settings.max_reply_tokens, trusted)
        self._tools = Toolkit(settings, prompter, f"{model} {VERSION}")

    def steps(self) -> dict[StepName, RequestStep]:
        """The steps in the order they run."""
        tools = self._tools
        steps: list[RequestStep] = [
            DirectStep(tools),
            indirect_step(tools),
            ConsolidateStep(tools),
            VerifyStep(tools),
            entity_step(tools),
            CrossStep(tools),
            ParaphraseStep(tools),
            AbstainStep(tools),
            RoundtripStep(tools),
        ]
        return {step.name: step for step in steps}

    def limits(self) -> list[str]:
        """What this generator cannot do."""
        return [
            f"Every pair is only as right as {self.name} wrote it: rules check that an answer's "
            "words and numbers stand in its chunk, not that the question fits.",
            "The rules for loose pronouns and references to the text are English ones.",
            "Cross-document pairs join documents that share a rare name or ask for the same "
            "property; documents related only by meaning are not joined.",
            "Pairs of the steps after verify and roundtrip are checked by rules only.",
            "Abstentions are checked against one document: another one may answer them.",
        ]
