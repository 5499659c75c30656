"""The server's web page in headless Chromium: by keyboard alone, in both colour schemes, with axe.

    pip install playwright axe-playwright-python; apt-get install chromium
    python benchmarks/serve_page.py [--url URL] [--chromium /usr/bin/chromium] [--shots FOLDER]

Without --url a server over a scratch memory is started. It ends with code 1 where axe-core finds a
serious or critical fault, where the page reports an error, or where a step has no effect.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright
from served import ANSWER, KNOWN, make_run, serving

TEXT = "The Kanderup ferry sails at noon."
QUESTION = "When does the Kanderup ferry sail?"
SERIOUS = ("serious", "critical")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=Path, default=Path())
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url
        if not url:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memo-page-")))
            url = stack.enter_context(serving(make_run(root), root / "log")).url
        found = looked_at(url, options)
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["serious"] or found["errors"] else 0)


def looked_at(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Faults of both colour schemes, and the page's own errors."""
    serious: list[str] = []
    minor: list[str] = []
    errors: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # axe is injected
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else 0)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            use_by_keyboard(page)
            for one in Axe().run(page).response["violations"]:
                place = serious if one["impact"] in SERIOUS else minor
                place.append(f"{scheme}: {one['id']}: {one['nodes'][0]['html'][:200]}")
            page.screenshot(path=options.shots / f"page-{scheme}.png", full_page=True)
            page.close()
        strict = browser.new_page()  # under its own Content-Security-Policy
        strict.on("console", lambda line: errors.append(line.text) if line.type == "error" else 0)
        strict.goto(url)
        strict.wait_for_selector("#documents")
        browser.close()
    return {"serious": serious, "minor": minor, "errors": errors}


def use_by_keyboard(page: Page) -> None:
    """Ask, add, ask about what was added, and delete it, with Tab, Enter and Space alone."""
    page.keyboard.press("Tab")
    ask(page, KNOWN, ANSWER)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type(TEXT)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#documents button")
    page.focus("#question")
    page.keyboard.press("Control+A")
    ask(page, QUESTION, "noon")
    count = "document.querySelectorAll('#documents button').length"
    before = page.evaluate(count)
    page.focus("#documents button")
    page.keyboard.press("Space")
    page.wait_for_function(f"before => {count} < before", arg=before)


def ask(page: Page, question: str, answer: str) -> None:
    """Type a question into the focused field; wait for the answer."""
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "text => document.getElementById('answer').innerText.includes(text)", arg=answer
    )


if __name__ == "__main__":
    main()
