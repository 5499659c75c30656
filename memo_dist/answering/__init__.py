"""The ways of answering a question from a run, behind one function; see :mod:`.modes`."""

from memo_dist.answering.answerer import Answered, Answerer, Options
from memo_dist.answering.modes import MODES, check_mode, open_answerer

__all__ = ["MODES", "Answered", "Answerer", "Options", "check_mode", "open_answerer"]
