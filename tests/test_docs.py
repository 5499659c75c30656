"""The Markdown pages: links resolve, tables render, README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
README_LINES = 150

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
SEPARATOR = re.compile(r"^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$")


def without_fences(text):
    """(line number, line) of all lines outside of fenced code."""
    lines, fence = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and found[1][0] == fence[0] and len(found[1]) >= len(fence):
            fence = ""
        elif not fence:
            lines.append((number, line))
    return lines


def without_code(line):
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line)


def anchors(text):
    """The ids that GitHub gives to a page's headings."""
    found = {}
    for _, line in without_fences(text):
        heading = re.match(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$", line)
        if heading:
            title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in found.items() for n in range(last + 1)}


def broken_links(page, text):
    broken = []
    for number, line in without_fences(text):
        for link in LINK.findall(without_code(line)):
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if path.startswith("/") or not target.is_relative_to(ROOT) or not target.exists():
                broken.append(f"{number}: {link}: no such file")
            elif anchor and anchor not in anchors(text if target == page else target.read_text()):
                broken.append(f"{number}: {link}: no such heading")
    return broken


def cells(row):
    """GitHub splits a row at every pipe that has no backslash before it, in code spans too."""
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


def broken_tables(text):
    broken, table = [], []
    for number, line in [*without_fences(text), (0, "")]:
        if line.lstrip().startswith("|"):
            table.append((number, line.strip()))
            continue
        if table and (len(table) < 3 or not SEPARATOR.match(table[1][1])):
            broken.append(f"{table[0][0]}: rows without header and separator above them")
        elif table:
            width = cells(table[0][1])
            broken += [
                f"{n}: {cells(row)} of {width} cells" for n, row in table if cells(row) != width
            ]
        table = []
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve_and_tables_render(page):
    text = page.read_text(encoding="utf-8")
    assert not broken_links(page, text)
    assert not broken_tables(text)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


HEADER = "| a | b |\n|---|---|\n"


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "| 1 | 2 |\n\n| 3 | 4 |\n",
        HEADER + "| 1 | 2 | 3 |\n",
        HEADER + "| 1 |\n",
        HEADER + "| `x|y` | 2 |\n",
        "| a | b |\n|---|\n| 1 | 2 |\n",
        "text\n| 1 | 2 |\n",
    ],
)
def test_broken_tables_are_found(text):
    assert broken_tables(text)


def test_good_tables_pass():
    assert not broken_tables(HEADER + "| `x\\|y` | 2 \\| 3 |\n| | |\n\n```\n| no table\n```\n")


@pytest.mark.parametrize(
    "link", ["missing.md", "#missing", "docs/status.md#missing", "/etc", "../"]
)
def test_broken_links_are_found(link):
    assert broken_links(ROOT / "README.md", f"# Title\n\nSee [this]({link}).\n")


def test_good_links_pass():
    text = (
        "# A `key`: what, and *why*?\n# Twice\n# Twice\n[a](#a-key-what-and-why) [b](#twice-1)"
        " [c](docs/status.md#done) ![d](slurm) [e](https://example.org/x) `[f](missing)`\n"
        "```\n[g](missing)\n```\n"
    )
    assert not broken_links(ROOT / "README.md", text)
