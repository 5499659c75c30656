"""The rules generator: question-answer reflections from prose by rules over real NLP parts.

It needs no service, no GPU and no download: tags and lemmas come from HanTa, sentence borders
from pysbd, verb forms from lemminflect; the rest are rules in this package.
"""

from memo_dist.synthesis.rules.generator import RulesGenerator

__all__ = ["RulesGenerator"]
