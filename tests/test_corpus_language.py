"""Documents in a language that the generator does not read are named and set aside."""

import pytest
from cli import memo_dist

from memo_dist.corpus.language import language_of
from memo_dist.corpus.manifest import load_manifest, load_quarantine

ENGLISH = "The pump delivers forty litres a minute and is checked by a technician every spring."
GERMAN = "Die Pumpe fördert vierzig Liter in der Minute und wird in jedem Frühling geprüft."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("La pompe débite quarante litres par minute et un technicien la vérifie.", "fr"),
        ("ポンプは毎分四十リットルを送り、毎年点検されます。", "ja"),
        ("E4; 110\nE7; 240", ""),
        ("Ok.", ""),
        (f"```\n{GERMAN}\n```\n{ENGLISH}", "en"),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language


def write(folder, **texts):
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_a_dry_run_names_what_is_set_aside(tmp_path):
    corpus = write(tmp_path / "c", a=ENGLISH, b=GERMAN, c="Ok.")
    (corpus / "x.png").write_bytes(b"x")
    done = memo_dist("synthesize", corpus, "--run", tmp_path / "r", "--dry-run")
    assert "2 documents" in done.stdout
    assert "quarantined 1 (language 1)" in done.stdout
    assert "skipped 1 (.png 1)" in done.stdout
    done = memo_dist(
        *("synthesize", corpus, "--run", tmp_path / "r", "--dry-run", "corpus.languages=[en,de]")
    )
    assert "languages other than English: de 1" in done.stdout


def test_a_corpus_that_the_generator_cannot_read_is_an_error(tmp_path):
    corpus = write(tmp_path / "c", b=GERMAN)
    done = memo_dist("synthesize", corpus, "--run", tmp_path / "r")
    assert done.returncode == 2
    assert "by language: de 1" in done.stderr
    assert "corpus.languages" in done.stderr


def test_the_manifest_counts_languages(tmp_path):
    from memo_dist.config import Config
    from memo_dist.config.stages import corpus_settings
    from memo_dist.corpus.build import build_corpus

    corpus, config = write(tmp_path / "c", a=ENGLISH, b=GERMAN, c="Ok."), Config()
    build_corpus(corpus, tmp_path / "rules", corpus_settings(config))
    (entry,) = load_quarantine(tmp_path / "rules")
    assert (entry.origin, entry.reason) == ("b.txt", "language")
    config.generator.kind = "openai"
    build_corpus(corpus, tmp_path / "model", corpus_settings(config))
    assert load_manifest(tmp_path / "model").languages == {"": 1, "de": 1, "en": 1}
