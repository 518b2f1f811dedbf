"""The studies that write a report run, and write it."""

import json

import pytest

from tests.studies.smoke import run_study

# Studies, with the number of bars of a quick look.
STUDIES = {
    "local_search": 7,
    "local_search_movielens": 0,
    "training_profile": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_smoke_run_writes_tables_and_bars(study, tmp_path, monkeypatch):
    run_study(monkeypatch, study, f"--output-dir={tmp_path}")
    content = json.loads((tmp_path / f"{study}.json").read_text())
    assert content["smoke"] and content["tables"]
    assert len(content["bars"]) == STUDIES[study]
    for bar in content["bars"]:
        assert bar["measured"] > 0.0
        assert bar["rounds"] >= 1
    assert f"# {study}" in (tmp_path / f"{study}.md").read_text()
