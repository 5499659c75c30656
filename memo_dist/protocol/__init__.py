"""The text protocol: a frozen executive asks the memory turn by turn and joins the answers.

After MeMo (arXiv 2605.15156): grounding, entity identification, answer seeking, synthesis.
"""
