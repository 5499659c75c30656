"""Documents, names and models do not command the terminal that shows their text."""

import io
import logging
import subprocess
import sys

import pytest

from memo_dist.io.terminal import VisibleText, drawing, visible
from memo_dist.observability.logs import LOG_FILE, logged

TITLE = "\x1b]0;owned\x07"  # OSC: the window's title
CLIPBOARD = "\x1b]52;c;ZXZpbA==\x1b\\"  # OSC 52: the clipboard
HIDE = "\x1b[2J\x1b[H\x1b[8m"  # CSI: clear, home, hidden
C1 = "\x9b31m\x9d0;x\x9c"
BACK = "harmless\rrm -rf\x08\x08"
TURNED = "\u202egpj.exe\u2066"
EVIL = (TITLE, CLIPBOARD, HIDE, C1, BACK, TURNED, "\x00\x7f\x0b\x0c", "\x0e\x0f")


@pytest.mark.parametrize("text", EVIL)
def test_nothing_acts(text):
    shown = visible(f"a{text}b\tc\nd")
    acting = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    assert not acting & set(shown)
    assert visible(shown) == shown
    assert "\u202e" not in shown


def test_ordinary_text_of_any_language_stays():
    text = "Grüße, 你好, שלום, नमस्ते, 👩‍👩‍👧 \t x\n"
    assert visible(text) == text


def test_a_stream_shows_and_a_bar_draws_below_it():
    below = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    stream = VisibleText(below)
    assert stream.write(TITLE) == len(TITLE)
    drawing(stream).write("\x1b[2K")
    drawing(stream).flush()
    assert below.buffer.getvalue() == b"\\x1b]0;owned\\x07\x1b[2K"


def test_a_log_shows(tmp_path):
    with logged(tmp_path):
        logging.getLogger("memo_dist.test").warning("document %s", TITLE)
    text = (tmp_path / LOG_FILE).read_text()
    assert "\x1b" not in text
    assert "\\x1b]0;owned\\x07" in text


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_command_line_shows(stream):
    """On 1f7257c the sequence reached the terminal; a name is the shortest way for one."""
    script = (
        "import sys, click; from memo_dist.cli import main\n"
        f"main.memo_dist.main = lambda *a, **k: click.echo({TITLE!r}, err={stream == 'stderr'})\n"
        "sys.argv[1:] = ['doctor']; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert getattr(done, stream) == b"\\x1b]0;owned\\x07\n"


def test_a_refused_name_is_shown(tmp_path):
    run = tmp_path / f"run{TITLE}"
    done = subprocess.run(
        [sys.executable, "-m", "memo_dist", "status", run], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "\\x1b]0;owned" in done.stderr
    assert "\x1b" not in done.stderr
