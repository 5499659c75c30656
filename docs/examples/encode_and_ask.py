"""Encode a folder of documents, then ask its memory a question.

    python docs/examples/encode_and_ask.py DOCUMENTS RUN QUESTION [CONFIG.yaml]...

Run it again to ask another question: the run is found done.
"""

import sys

from memo_dist import encode


def main(documents: str, run: str, question: str, *config_files: str) -> None:
    """Print the answer, its confidence, and the documents behind it."""
    with encode(documents, run, config_files=config_files) as bank:
        answer = bank.ask(question)
    if answer.abstained:
        print(f"I don't know ({answer.confidence:.0%})")
    else:
        print(f"{answer.text} ({answer.confidence:.0%}; {', '.join(answer.sources)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
