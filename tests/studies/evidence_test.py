import pytest

from studies import evidence
from tests.studies.trials_test import trial


@pytest.mark.parametrize("page", evidence.PAGES, ids=lambda page: page.name)
def test_tables_of_the_pages_are_those_of_the_records(page):
    text = page.read_text()
    assert evidence.rebuild(text) == text, "run `make evidence`"


def test_a_block_is_filled_and_the_rest_is_left(tmp_path, monkeypatch):
    trials = [trial("comet", 0), trial("one", 0, 0.25)]
    monkeypatch.setattr(evidence, "read_records", lambda path, kind: trials)
    page = (
        "before\n<!-- trials of strokes: one -->\nold\n\nlines\n<!-- end -->\n"
        "between\n<!-- narrow of strokes -->\n\n<!-- end -->\nafter\n"
    )
    lines = evidence.rebuild(page).splitlines()
    assert lines[:2] == page.splitlines()[:2]
    assert lines[4].startswith("| one | 1 | 0.2500 |")
    assert lines[5:7] == ["<!-- end -->", "between"]
    assert lines[-2:] == ["<!-- end -->", "after"]


def test_unknown_table_raises():
    with pytest.raises(ValueError, match="rates of strokes"):
        evidence.rebuild("<!-- rates of strokes -->\n\n<!-- end -->")
