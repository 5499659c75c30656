"""Every kind of bad input of docs/bad-input.md: message, exit code, nothing half-written."""

import pytest
from bad_inputs import CASES, PAGE, table

from memo_dist.cli.main import run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_ends_in_one_message(case, tmp_path, capsys):
    for name, data in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    assert run([word.replace("{}", str(tmp_path)) for word in case.arguments]) == case.code
    error = capsys.readouterr().err
    assert case.message in error
    assert "Traceback" not in error
    assert "unexpected" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_the_table_of_the_documentation_has_every_kind():
    assert len({case.what for case in CASES}) == len(CASES) >= 60
    assert PAGE.read_text(encoding="utf-8") == table()
