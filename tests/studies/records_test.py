import dataclasses

from studies.records import Record
from studies.records import append_record
from studies.records import read_records
from tests.studies.protocol_test import record


def test_records_survive_writing_and_reading(tmp_path):
    path = tmp_path / "new" / "toy.csv"
    first = dataclasses.replace(record("a", 1.28e-4), agreement=0.25)
    second = dataclasses.replace(first, seed=1, test_loss=0.123456)
    append_record(path, first)
    append_record(path, second)
    assert read_records(path, Record) == [first, second]
    assert len(path.read_text().splitlines()) == 3


def test_line_without_end_is_no_record_and_is_written_over(tmp_path):
    path = tmp_path / "toy.csv"
    assert read_records(path, Record) == []
    first = dataclasses.replace(record("a", 1e-3), agreement=0.0)
    append_record(path, first)
    complete = path.read_text()
    path.write_text(complete + "toy,b,0.001,0,0.5")
    assert read_records(path, Record) == [first]
    append_record(path, first)
    assert path.read_text() == complete + complete.splitlines()[1] + "\n"
