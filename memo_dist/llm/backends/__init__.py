"""Clients of language models, behind one seam: see :mod:`memo_dist.llm.backends.base`."""
