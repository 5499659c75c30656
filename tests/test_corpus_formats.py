"""Documents as they are in the wild: marks, navigation and kinds of files."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from memo_dist.answers.characters import clean_characters
from memo_dist.answers.text import normalise
from memo_dist.config.schema import CorpusConfig
from memo_dist.corpus.build import build_corpus, load_chunks, load_documents, read_documents
from memo_dist.corpus.listing import list_source
from memo_dist.corpus.sections import folders
from memo_dist.corpus.types import Document
from memo_dist.synthesis.rules.noise import without_marks


def read_one(tmp_path: Path, name: str, content: str | bytes) -> Document:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(data)
    (document,) = read_documents(list_source(tmp_path / name), CorpusConfig())
    assert isinstance(document, Document), document
    return document


MARKED = """+++
title = "Boiler"
date = 2031-04-05
+++
# Boiler {#boiler .wide}

[![build](badge.svg)](ci) <!-- internal -->

[TOC]

!!! warning "Hot parts"
    The pipe reaches 90 degrees.

    ```yaml
    limit: {{ .Values.limit }}
    ```

??? note

    Wear gloves.

:::tip[Saving]
Close the valve at night.
:::

> [!NOTE]
> The warranty is two years.

/// caution
Drain it before frost.
///

{% include menu.html %}Use {{< param kind >}}water. {: .lead }

Write `{% raw %}` as it is.[^1]

[^1]: In templates.

- [Parts](#parts)
  - [Seals](#seals)

{% highlight ini %}
speed: 4
{% endhighlight %}
"""


def test_marks_of_site_generators_vanish_and_their_text_stays(tmp_path):
    document = read_one(tmp_path, "b.md", MARKED)
    assert (document.title, document.date) == ("Boiler", "2031-04-05")
    assert document.text.split("\n\n") == [
        *("Boiler", "Hot parts", "The pipe reaches 90 degrees."),
        *("```yaml\nlimit: {{ .Values.limit }}\n```", "Wear gloves.", "Saving"),
        *("Close the valve at night.", "The warranty is two years.", "Drain it before frost."),
        *("Use water.", "Write {% raw %} as it is.", "In templates.", "```ini\nspeed: 4\n```"),
    ]


def test_jsx_around_markdown_vanishes(tmp_path):
    page = (
        "import Box from './box';\nexport const size = 4;\n\n# Fan\n\n{/* draft */}\n"
        '<Box kind="a">\n\nThe fan has five blades.\n\n</Box>\n'
    )
    assert read_one(tmp_path, "f.mdx", page).text == "Fan\n\nThe fan has five blades."


NAVIGATION = """<html><head><title>Gears</title></head><body>
<ol class="breadcrumb"><li>Home</li><li>Parts</li></ol>
<table><tr><td>« Prev</td><td>Up</td><td>Next »</td></tr>
<tr><td>Bolts</td><td>Home</td><td>Nuts</td></tr></table>
<ul><li><a href="#size">Size</a></li><li><a href="#weight">Weight</a></li></ul>
<h2>Size<a class="headerlink" href="#size">¶</a></h2><p>A gear has 40 teeth.</p>
<p><a href="b.html">Previous</a> | <a href="/">Home</a> | <a href="n.html">Next</a></p>
<table><tr><td>Home</td><td>4 goals</td></tr><tr><td>Away</td><td>2 goals</td></tr></table>
</body></html>"""


def test_navigation_of_a_page_is_left_out(tmp_path):
    document = read_one(tmp_path, "g.html", NAVIGATION)
    assert document.text == "Size\n\nA gear has 40 teeth.\n\nHome; 4 goals\nAway; 2 goals"
    assert document.headings == ((0, 2),)


def test_breadcrumbs_and_links_between_pages_in_plain_text(tmp_path):
    text = "Handbook > Pumps > Care\n\nPrev: Fans | Home | Next: Pipes\n\nOil it. Go home next."
    assert read_one(tmp_path, "p.txt", text).text == "Oil it. Go home next."


def test_code_keeps_its_lines_between_fences(tmp_path):
    page = "<p>Run:</p><pre><code class='language-sh'>\n<b>go</b> --x: 1\n\n```\nend\n</code></pre>"
    assert read_one(tmp_path, "c.html", page).text == "Run:\n\n````sh\ngo --x: 1\n\n```\nend\n````"


def test_fences_inside_code_do_not_end_it(tmp_path):
    page = "Before.\n\n````markdown\n```python\nx = 1\n```\n````\n\nThe pump weighs 12 kg.\n"
    text = read_one(tmp_path, "f.md", page).text
    assert text == page.rstrip()
    assert without_marks(text).split() == ["Before.", "The", "pump", "weighs", "12", "kg."]


def test_a_heading_without_visible_text_is_none(tmp_path):
    pages, corpus = tmp_path / "pages", tmp_path / "corpus"
    pages.mkdir()
    for name in "abcde":  # five documents share a last line, so that it is left out
        page = f"# Pump {name}\n\n## &#8203;\n\nIts code is {name}.\n\nAcme handbook\n"
        (pages / f"{name}.md").write_text(page)
    build_corpus(pages, corpus, CorpusConfig())
    first = load_documents(corpus)[0]
    assert first.text == "Pump a\n\nIts code is a."
    assert first.headings == ((0, 1),)


RST = """
.. _fitting:

=======
Fitting
=======

:Date: 2031-02-03

.. note:: Use :ref:`the gauge <gauge>` and :func:`~tools.measure`.

.. toctree::

   other

Depth
-----

.. code-block:: sh
   :linenos:

   measure --deep

.. versionadded:: 3.2
   The ``--deep`` option.

====  =====
Part  Price
====  =====
Seal  4
====  =====

.. include:: /etc/hostname
"""

ADOC = """= Boiler Manual
Ann Ode <ann@example.org>
:revdate: 2031-05-06
:unit: Marl

// draft
== Limits [[limits]]

The {unit} boiler takes *90* degrees, see <<care,the care>> and https://example.org[the site].

NOTE: It cools in an hour.

[source,ini]
----
speed: 4 # <1>
----

. Open it.
. Drain it.

[cols="1,1"]
|===
|Part |Price

|Seal |4
|Body
|118
|===
"""


@pytest.mark.parametrize(
    ("name", "content", "title", "date", "blocks"),
    [
        (
            *("f.rst", RST, "Fitting", "2031-02-03"),
            [
                *("Fitting", "Use the gauge and measure.", "Depth", "```sh\nmeasure --deep\n```"),
                *("The --deep option.", "Part: Seal; Price: 4"),
            ],
        ),
        (
            *("b.adoc", ADOC, "Boiler Manual", "2031-05-06"),
            [
                *("Boiler Manual", "Limits"),
                "The Marl boiler takes 90 degrees, see the care and the site.",
                *("It cools in an hour.", "```ini\nspeed: 4\n```", "1. Open it.\n2. Drain it."),
                "Part: Seal; Price: 4\nPart: Body; Price: 118",
            ],
        ),
        (
            *("p.csv", 'Part;Price\nSeal;4\n"Body, large";118\n', "p", None),
            ["Part: Seal; Price: 4\nPart: Body, large; Price: 118"],
        ),
    ],
)
def test_further_kinds_of_files(tmp_path, name, content, title, date, blocks):
    document = read_one(tmp_path, name, content)
    assert (document.title, document.date) == (title, date)
    assert document.text.split("\n\n") == blocks


def make_docx(body: str) -> bytes:
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    word = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    files = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType='
        '"application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{word}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{word}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1"'
        f' Type="{office}" Target="word/document.xml"/></Relationships>',
        "word/styles.xml": f'<w:styles {space}><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style></w:styles>',
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return out.getvalue()


def test_word_files(tmp_path):
    heading = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>'
    paragraphs = [f"<w:p>{heading}<w:r><w:t>Leave</w:t></w:r></w:p>"]
    paragraphs += ["<w:p><w:r><w:t>Each employee has 30 days.</w:t></w:r></w:p>"]
    document = read_one(tmp_path, "l.docx", make_docx("".join(paragraphs)))
    assert (document.title, document.text) == ("Leave", "Leave\n\nEach employee has 30 days.")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.docx", b"PK no archive", "broken_docx"),
        ("a.docx", make_docx("<w:p/>" * 2_000_000), "too_large"),
        ("a.rst", b"\xff\xfea", "not_utf8"),
        ("a.csv", b"\n\n", "empty"),
    ],
)
def test_broken_files_of_further_kinds_are_quarantined(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    (entry,) = read_documents(list_source(tmp_path / name), CorpusConfig(max_document_mb=1))
    assert entry.reason == reason


def test_footers_that_many_documents_share_are_left_out(tmp_path):
    source = tmp_path / "corpus"
    source.mkdir()
    for n in range(8):
        lines = [f"# Part {n}", "Marl Works", f"Part {n} weighs {n} kg.", "Status: approved"]
        lines += ["This contract follows the law of Marl.", "© 2031 Marl Works. Do not copy."]
        (source / f"p{n}.md").write_text("\n\n".join(lines))
    build_corpus(source, tmp_path / "out", CorpusConfig())
    documents = load_documents(tmp_path / "out")
    assert documents[3].text.split("\n\n") == [
        *("Part 3", "Part 3 weighs 3 kg.", "Status: approved"),
        "This contract follows the law of Marl.",
    ]
    assert [documents[3].text[at:][:6] for at, _ in documents[3].headings] == ["Part 3"]


def test_sections_hold_folders_and_headings(tmp_path):
    source = tmp_path / "corpus"
    for folder in ("go", "java"):
        (source / folder).mkdir(parents=True)
        long = f"The {folder} exporter needs port 9. " * 7
        parts = ["---\ntitle: Start\n---\n## Install", long, "### Linux", long, "## Use", long]
        (source / folder / "start.md").write_text("\n\n".join(parts))
    (source / "plain.md").write_text("# Plain\n\nThe valve closes at night.")
    build_corpus(source, tmp_path / "out", CorpusConfig(chunk_chars=240, overlap_sentences=0))
    sections = [chunk.section for chunk in load_chunks(tmp_path / "out")]
    assert sections[:3] == [
        "go > Start > Install",
        "go > Start > Install > Linux",
        "go > Start > Use",
    ]
    assert sections[3:] == [name.replace("go", "java") for name in sections[:3]] + [""]


HIDDEN = "Spar­kasse Veldorf o\ufb03ce\u200b in \u202eNo\u0308rden\u202c\u00a0Street\x07"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.jsonl"])
def test_characters_have_one_form_in_every_kind_of_file(tmp_path, name):
    row = json.dumps({"id": "a", "title": HIDDEN, "text": HIDDEN})
    document = read_one(tmp_path, name, row if name == "a.jsonl" else HIDDEN)
    assert document.text == "Sparkasse Veldorf office in N\u00f6rden Street"


def test_double_width_letters_and_hyphens_are_the_plain_ones():
    text = "Mar\u2011l \uff11\uff19\uff12\uff16, \uff2bm at \u22125 degrees, \u4eca\u65e5\uff01"
    assert clean_characters(text) == "Mar-l 1926, Km at -5 degrees, \u4eca\u65e5\uff01"
    assert normalise("\u22125") == normalise("-5")


@pytest.mark.parametrize(
    ("value", "date"),
    [
        (1704240000000, "2024-01-03"),
        (1704240000, "2024-01-03"),
        ("14 March 2031", "2031-03-14"),
        ("March 14th, 2031", "2031-03-14"),
        ("2031", None),
        ("3/4/31", None),
        ("2031-02-30", None),
        ([], None),
        (1e300, None),
        (1e20, None),
        (-1e17, None),
        (10**18, "2001-09-09"),
        (True, None),
    ],
)
def test_a_date_never_costs_a_document(tmp_path, value, date):
    row = json.dumps({"id": 1, "title": "Minutes", "text": "They met.", "date": value})
    assert read_one(tmp_path, "d.jsonl", row).date == date
    front = f"---\ntitle: Minutes\ndate: {json.dumps(value)}\n---\nThey met."
    document = read_one(tmp_path, "d.md", front)
    assert (document.text, document.date) == ("They met.", date)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("go/prices.csv", ["go"]),
        ("go/notes.jsonl.md", ["go"]),
        ("data/rows.jsonl:3", []),
        ("data/rows.parquet:12", []),
        ("start.md", []),
    ],
)
def test_rows_of_one_file_have_no_folders(origin, expected):
    assert folders(origin) == expected
