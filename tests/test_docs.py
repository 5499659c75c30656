"""The Markdown pages: links, paths and keys exist, tables render, README stays short."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from memo_dist.config.load import known_keys

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
README_LINES = 150

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
SEPARATOR = re.compile(r"^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$")

SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
ROOTED = re.compile(
    r"(?<![\w./<>-])(?:memo_dist|benchmarks|tests|configs|docs|examples|kernels|launchers|slurm)/[\w./*{},<>-]+"
)
MODULE = re.compile(r"(?<![\w./*<>-])[\w/*{},<>-]+\.py\b")
PLACEHOLDER = re.compile(r"<[\w-]+>|\bNAME\b")
CODE_FOLDERS = ("memo_dist", "benchmarks", "examples", "tests", "kernels")
BUILT = ("memo_dist/_configs", "memo_dist/_kernels", "memo_dist/kernels", "memo_dist/scaling/data")
"""Folders that exist only in an installed package, after a build or with a user's file."""
GROUPS = {key.partition(".")[0] for key in known_keys()}
KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(sorted(GROUPS))})(?:\.[a-z]\w*)+(?![\w.]*[(/*])")
FILES = {"json", "jsonl", "py", "yaml", "sh", "html", "md"}
NOT_KEYS = {"corpus.build", "synthesis.engine", "synthesis.finish", "train.epoch"}
"""Modules whose package has the name of a group, and the misspelt key of troubleshooting.md."""


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


def code_of(text):
    """The code of a page: its spans, one per item, and then its fenced lines."""
    prose = without_fences(text)
    inside = {number for number, _ in prose}
    fenced = [line for n, line in enumerate(text.splitlines(), 1) if n not in inside]
    return [span for _, span in SPAN.findall("\n".join(line for _, line in prose))] + fenced


def expanded(path):
    """The glob patterns of a path with ``{a,b}`` and placeholders."""
    alternatives = re.search(r"\{([^{}]*)\}", path)
    if alternatives:
        before, after = path[: alternatives.start()], path[alternatives.end() :]
        return [p for word in alternatives[1].split(",") for p in expanded(before + word + after)]
    return [PLACEHOLDER.sub("*", path.rstrip("./,"))]


def missing_paths(text):
    """Paths from the root, and modules by the end of their path, that do not exist."""
    missing = []
    for code in code_of(text):
        rooted = [path for path in ROOTED.findall(code) if not path.startswith(BUILT)]
        modules = MODULE.findall(ROOTED.sub("", code))
        missing += [one for path in rooted for one in expanded(path) if not any(ROOT.glob(one))]
        missing += [one for path in modules for one in expanded(path) if not is_module(one)]
    return missing


def is_module(end):
    return any(any((ROOT / folder).rglob(end)) for folder in CODE_FOLDERS)


def unknown_keys(text):
    known = known_keys()
    named = {key for code in code_of(text) for key in KEY.findall(code)} - NOT_KEYS
    return [
        key
        for key in sorted(named)
        if key.rpartition(".")[2] not in FILES
        and not any(other == key or other.startswith(f"{key}.") for other in known)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_and_keys_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not missing_paths(text)
    assert not unknown_keys(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve_and_tables_render(page):
    text = page.read_text(encoding="utf-8")
    assert not broken_links(page, text)
    assert not broken_tables(text)


def test_every_test_file_stands_in_the_page_about_tests():
    patterns = re.findall(r"`(test_[a-z_*]+)`", (ROOT / "docs" / "testing.md").read_text())
    names = sorted(path.stem for path in (ROOT / "tests").glob("test_*.py"))
    assert not [n for n in names if not any(fnmatch(n, pattern) for pattern in patterns)]


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


@pytest.mark.parametrize(
    "text",
    [
        "See `memo_dist/training/looop.py`.",
        "Run `python benchmarks/none.py --full`.",
        "```bash\npython -m pytest tests/test_none.py\n```",
        "Prompts are in `memo_dist/nowhere/`.",
        "`loop.py`, `looop.py`",
        "`train/loop.py`",
        "`tests/test_none_*.py`",
        "`configs/deepspeed/zero-{0,9}.json`",
    ],
)
def test_missing_paths_are_found(text):
    assert len(missing_paths(text)) == 1


def test_existing_paths_pass():
    text = (
        "`memo_dist/training/loop.py`, `training/loop.py`, `loop.py`, `tests/test_ops_*.py`,"
        " `memo_dist/cli/NAME.py`, `configs/deepspeed/zero-{0,1}.json`, `RUN/none.json`,"
        " ``memo_dist/_kernels/x.so``, memo_dist/prose.py\n```\nbash launchers/quickstart.sh\n```\n"
    )
    assert not missing_paths(text)


@pytest.mark.parametrize("key", ["train.batch", "fusion.latent.depth", "scale.lr"])
def test_unknown_keys_are_found(key):
    assert unknown_keys(f"Set `{key}`.") == [key]
    assert unknown_keys(f"```bash\nmemo-dist train RUN {key}=3\n```") == [key]


def test_known_keys_pass():
    assert not unknown_keys(
        "`train.epochs=3`, `scale.random.lr`, `fusion.latent`, `train.*`, `run.json`,"
        " `corpus.build`, `memo_dist.scale.nothing`, train.prose"
    )
