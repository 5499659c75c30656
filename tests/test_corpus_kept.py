"""What a document says stays: text that looks like markup, navigation or a margin and is none."""

import json
import time
from pathlib import Path

import pytest

from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import read_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.markdown import parse_markdown
from memo_dist.corpus.pdf import without_margins
from memo_dist.corpus.types import Document, Quarantined


def read_one(tmp_path: Path, name: str, content: str | bytes) -> Document | Quarantined:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(data)
    (item,) = read_documents(list_source(tmp_path / name), CorpusConfig())
    return item


def blocks(tmp_path: Path, name: str, content: str | bytes) -> list[str]:
    document = read_one(tmp_path, name, content)
    assert isinstance(document, Document), document
    return document.text.split("\n\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "Pass <object> to the call.\n\nIt is blue.",
            ["Pass <object> to the call.", "It is blue."],
        ),
        ("The <select> element.\n\n## Price\n\n4.", ["The <select> element.", "Price", "4."]),
        ("A <title> is short.\n\nIt is *blue*.", ["A <title> is short.", "It is blue."]),
        ("Use --template=<template>.\n\nIt.", ["Use --template=<template>.", "It."]),
        ("<style> sets it.\n\nIt is *blue*.", ["<style> sets it.", "It is blue."]),
        ("<iframe>\n\nIt is *blue*.", ["<iframe>", "It is blue."]),
        ("Use <pre> here.\n\nIt is blue.", ["Use <pre> here.", "It is blue."]),
        ("Set <object>.\n\nClose </object>.", ["Set <object>.", "Close ."]),
        ("A <button>Go</button> b.\n\nIt.", ["A b.", "It."]),
        ("A <svg/> b.\n\n<iframe src='a' />\n\nIt.", ["A b.", "It."]),
        ("- <nav>\n\nIt.\n\n<nav>\n\n[Up](a)\n\n</nav>", ["<nav>", "It."]),
        ("<iframe>\n\nIt.\n\n<iframe src='a'></iframe>", ["<iframe>", "It."]),
        ("<nav>\n\n[Up](a)\n\n</nav>\n\nIt.", ["It."]),
        ("<script>\nx\n\ny\n</script>\n\nIt.", ["It."]),
    ],
)
def test_a_tag_that_markdown_only_mentions_hides_nothing(source, expected, tmp_path):
    assert blocks(tmp_path, "t.md", source) == expected


def test_tags_are_read_in_linear_time():
    begin = time.monotonic()
    for piece in ("<object> ", "<style>\n\n", "<select\n", "<nav>\n\n", "<style "):
        parse_markdown(piece * 8000)
    assert time.monotonic() - begin < 20


def test_a_template_tag_inside_a_line_opens_no_code(tmp_path):
    source = (
        "Use `{% highlight ruby %}` for code.\n\nSee {% highlight %}it.\n\n"
        "{% highlight ruby %}puts 1\nx = 1{% endhighlight %}\n\nIt is blue."
    )
    assert blocks(tmp_path, "h.md", source) == [
        *("Use {% highlight ruby %} for code.", "See it.", "```ruby\nputs 1\nx = 1\n```"),
        "It is blue.",
    ]


ADOC = """git-mill(1)
===========

NAME
----
git-mill - grinds

[[SYN]]
Synopsis
--------
Set <timeout> in `mill <path>`; list[int], argv[0] and Smith[2019] stay.

Run this
----
a <b>

done
----

OPTIONS
~~~~~~~
See linkgit:git-log[1], https://y.org[], link:a.html[Yes, we can], https://x.org[it,role=a].

The seal lasts.footnote:[Only if it is *dry*.] Write to Bob <bob@x.org> first.

<1> The pump (see <<care,the care>>).
"""


def test_asciidoc_titles_footnotes_and_angle_brackets(tmp_path):
    document = read_one(tmp_path, "g.adoc", ADOC)
    assert document.title == "git-mill(1)"
    assert document.text.split("\n\n") == [
        *("git-mill(1)", "NAME", "git-mill - grinds", "Synopsis"),
        "Set <timeout> in mill <path>; list[int], argv[0] and Smith[2019] stay.",
        *("Run this", "```\na <b>", "done\n```", "OPTIONS"),
        "See git-log(1), https://y.org, Yes, we can, it.",
        "The seal lasts. (Only if it is dry.) Write to Bob <bob@x.org> first.",
        "The pump (see the care).",
    ]
    assert [level for _, level in document.headings] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.html", "<p>5 × 10<sup>6</sup> and (2)<sup>−3</sup></p>", "5 × 10^6 and (2)^-3"),
        ("s.html", "<p>5<sup>th</sup> m<sup>2</sup> H<sub>2</sub>O</p>", "5th m2 H2O"),
        ("s.html", "<p>101<sub>2</sub>, 5<sup>1</sup>/<sub>2</sub></p>", "101_2, 5 1/2"),
        ("s.html", "<p>7<sup></sup>5</p>", "75"),
        ("s.md", "It has 10<sup>6</sup> parts.", "It has 10^6 parts."),
        ("s.rst", "It has 10\\ :sup:`6` parts of H\\ :sub:`2`\\ O.", "It has 10^6 parts of H2O."),
    ],
)
def test_raised_numbers_do_not_join_the_number_before(name, content, expected, tmp_path):
    assert blocks(tmp_path, name, content) == [expected]


@pytest.mark.parametrize("declared", ["iso-8859-1", "latin-1", "us-ascii", "windows-1252"])
def test_latin_pages_hold_the_characters_of_windows(declared, tmp_path):
    page = f'<meta charset="{declared}"><p>10\x9620 mm for \x8045, can\x92t\x81</p>'
    assert blocks(tmp_path, "w.html", page.encode("latin-1")) == ["10–20 mm for €45, can’t"]


STACKED = (
    "<table><tr><th></th><th colspan=2>2030</th><th>2031</th></tr>"
    "<tr><th>Region</th><th>Units</th><th>EUR</th><th>EUR</th></tr>"
    "<tr><td>North</td><td>1</td><td>2</td><td>3</td></tr></table>"
)
SECTIONS = (
    "<table><tr><th colspan=2>Masses</th></tr><tr><th>Part</th><th>Mass</th></tr>"
    "<tr><th colspan=2>Pumps</th></tr><tr><td>P1</td><td>5 kg</td></tr>"
    "<tr><td colspan=2>Valves</td></tr><tr><td>V1</td><td>6 kg</td></tr>"
    "<tr><th>Seals</th><td></td></tr><tr><td>S1</td><td>7 kg</td></tr></table>"
)
SPANNED = (
    "<table><tr><th rowspan=2>Region</th><th>2030</th></tr><tr><th>Units</th></tr>"
    "<tr><td>North</td><td>1</td></tr></table>"
)
KEYS = "<table><tr><th>Fax</th><td></td></tr><tr><th>Phone</th><td>5</td></tr></table>"


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        (STACKED, ["Region: North; 2030 Units: 1; 2030 EUR: 2; 2031 EUR: 3"]),
        (SPANNED, ["Region: North; 2030 Units: 1"]),
        (KEYS, ["Fax", "Phone: 5"]),
        (
            SECTIONS,
            [
                *("Masses", "Pumps", "Part: P1; Mass: 5 kg", "Valves", "Part: V1; Mass: 6 kg"),
                *("Seals", "Part: S1; Mass: 7 kg"),
            ],
        ),
    ],
)
def test_every_header_of_a_table_counts(table, lines, tmp_path):
    assert read_one(tmp_path, "t.html", table).text.split("\n") == lines


ROWS = "Station: Alba; Previous: Brem; Next: Corl\nStation: Brem; Previous: Alba; Next: Dorn"
STATIONS = [["Station", "Previous", "Next"], ["Alba", "Brem", "Corl"], ["Brem", "Alba", "Dorn"]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("s.csv", "\n".join(map(",".join, STATIONS)), ROWS),
        (
            "s.md",
            "\n".join("|".join(row) for row in [STATIONS[0], ["-"] * 3, *STATIONS[1:]]),
            ROWS,
        ),
        (
            "s.html",
            "<table><tr><th>Previous</th><th>Next</th></tr><tr><td>Alba</td><td>Corl</td></tr></table>",
            "Previous: Alba; Next: Corl",
        ),
        (
            "m.csv",
            "Menu path,Owner\nHome > Save > PDF,Anna Berg\nNext,Up\n",
            "Menu path: Home > Save > PDF; Owner: Anna Berg\nMenu path: Next; Owner: Up",
        ),
        (
            "p.md",
            "1. Choose File > Print > Two sides\n2. Wait.",
            "1. Choose File > Print > Two sides\n2. Wait.",
        ),
        ("f.txt", "File > Print > Two sides\nWait.", "File > Print > Two sides\nWait."),
        (
            "a.txt",
            "Choose this:\nHome > Print > A4\nWait.",
            "Choose this:\nHome > Print > A4\nWait.",
        ),
        ("b.md", "# Pumps\n\nDocs > Parts > Pumps\n\nOil it.", "Pumps\n\nOil it."),
        ("c.md", "# Marl\n\nMarl > Parts > Pumps\n\nOil it.", "Marl\n\nOil it."),
    ],
)
def test_rows_and_steps_are_no_navigation(name, content, expected, tmp_path):
    assert read_one(tmp_path, name, content).text == expected


def test_a_row_of_navigation_only_is_quarantined(tmp_path):
    row = json.dumps({"id": "a", "title": "T", "text": "Home > Products > Bolts"})
    entry = read_one(tmp_path, "r.jsonl", row)
    assert isinstance(entry, Quarantined)
    assert (entry.reason, entry.detail) == ("empty", "no text but navigation")


RST = """Pump
====

:Capacity: 400 litres
:Date: 2031-02-03
:Author: Ann Ode

.. figure:: a.png
   :alt: a pump

   The pump was built in 1931.

.. only:: html

   The valve is blue.

   Care
   ----

   Oil it.

Next
----

.. py:function:: run(x)

   :param x: the speed
"""


def test_fields_captions_and_conditional_text_of_restructured_text(tmp_path):
    document = read_one(tmp_path, "p.rst", RST)
    assert (document.title, document.date) == ("Pump", "2031-02-03")
    assert document.text.split("\n\n") == [
        *("Pump", "Capacity: 400 litres\nAuthor: Ann Ode", "The pump was built in 1931."),
        *("The valve is blue.", "Care", "Oil it.", "Next", "param x: the speed"),
    ]


def test_dotted_prices_are_no_table_of_contents():
    prices = "Prices\nBolt ...... 45\nNut ....... 12\nScrew ..... 60\nHe waits....\nEnd"
    assert without_margins([prices, prices.replace("45", "1").replace("60", "99")])[0] == prices
    contents = "Pumps ..... 1\nFans . . . . . 2\nIndex ....... iv"
    assert without_margins([f"Marl\nContents\n{contents}\nof it\nend", "a\nb"])[0] == (
        "Marl\nContents\nof it\nend"
    )


@pytest.mark.parametrize(
    ("first", "last", "is_margin"),
    [
        ("Lot {0}", "Total {0}", False),
        ("Drawing no. {0} of 1931", "Due in {1} days", False),
        ("{0}", "Page {0} of 4", True),
        ("Annual report | {0}", "- {0} -", True),
        ("{2}", "Seite {0}", True),
        ("Lot", "{1}", None),
    ],
)
def test_numbered_lines_are_margins_only_where_they_count_pages(first, last, is_margin):
    numbers = [(n + 1, 7 * n % 5, ["i", "ii", "iii", "iv"][n]) for n in range(4)]
    bodies = [f"Pump {n}\nis\nblue {n}" for n in range(4)]
    pages = [
        f"{first.format(*values)}\n{body}\n{last.format(*values)}"
        for values, body in zip(numbers, bodies, strict=True)
    ]
    if is_margin is None:  # a shared line, and numbers in no order
        expected = [page.split("\n", 1)[1] for page in pages]
    else:
        expected = bodies if is_margin else pages
    assert without_margins(pages) == expected


@pytest.mark.parametrize("mark", ["\t", ";", "|"])
def test_quoted_words_between_commas_are_no_cells(mark, tmp_path):
    rows = [["Id", "Note", "Owner"], ["1", 'He said, "yes", and left.', "Ann"]]
    rows.append(["2", 'The pump, "Bess", was sold.', "Bob"])
    name = "s.tsv" if mark == "\t" else "s.csv"
    assert read_one(tmp_path, name, "\n".join(map(mark.join, rows))).text == (
        'Id: 1; Note: He said, "yes", and left.; Owner: Ann\n'
        'Id: 2; Note: The pump, "Bess", was sold.; Owner: Bob'
    )
