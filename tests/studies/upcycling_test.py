from studies.upcycling import best_of_each
from tests.studies.protocol_test import record


def test_every_seed_of_an_arm_has_its_own_best_rate():
    records = [
        record("one", 2e-3, 0, validation_loss=0.5),
        record("longer", 2e-3, 0, validation_loss=0.4, test_loss=0.9),
        record("longer", 8e-4, 0, validation_loss=0.5, test_loss=0.1),
        record("longer", 2e-3, 1, validation_loss=0.6),
        record("longer", 8e-4, 1, validation_loss=0.3),
    ]
    groups = best_of_each(records)
    assert groups == {"one": [records[0]], "longer": [records[1], records[4]]}
