"""Loss weights by epoch, and the branch-training schedules of Zhu & Bain (2017) written as steps."""

import pytest
from pydantic import TypeAdapter, ValidationError

from hiercnn.train import Weight, weight_at

# from 0-based epoch on: coarse, mid, leaf. "After epoch 8" of the published code is from epoch 9 on.
TABLES = {
    "cifar10": {0: (0.98, 0.01, 0.01), 9: (0.1, 0.8, 0.1), 19: (0.1, 0.2, 0.7), 29: (0, 0, 1)},
    "cifar100": {0: (0.98, 0.01, 0.01), 14: (0.1, 0.8, 0.1), 24: (0.1, 0.2, 0.7), 34: (0, 0, 1)},
}
LAST_EPOCHS = {"cifar10": (8, 18, 28, 59), "cifar100": (13, 23, 33, 79)}


def weight(value):
    return TypeAdapter(Weight).validate_python(value)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_tables_of_zhu_and_bain(name, part):
    steps = weight({"steps": {start: row[part] for start, row in TABLES[name].items()}})
    phases = [row[part] for row in TABLES[name].values()]
    assert [weight_at(steps, epoch) for epoch in LAST_EPOCHS[name]] == phases
    assert [weight_at(steps, epoch + 1) for epoch in LAST_EPOCHS[name]] == [*phases[1:], phases[-1]]


def test_constant():
    assert [weight_at(weight(0.3), epoch) for epoch in (0, 7)] == [0.3, 0.3]


def test_linear_reaches_its_end_and_stays():
    line = weight({"linear": {"start": 1.0, "end": 0.2, "epochs": 4}})
    assert [weight_at(line, epoch) for epoch in (0, 1, 2, 4, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])


def test_steps_may_come_in_any_order():
    assert weight_at(weight({"steps": {5: 0.5, 0: 1.0}}), 4) == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "a number from 0 on"),
        (True, "a number from 0 on"),
        ("high", "a number from 0 on"),
        ({"steps": {1: 0.5}}, "needs a value from epoch 0 on"),
        ({"steps": {0: -0.5}}, "greater than or equal to 0"),
        ({"linear": {"start": 1, "end": 0}}, "Field required"),
        ({"linear": {"start": 1, "end": 0, "epochs": 0}}, "greater than or equal to 1"),
    ],
)
def test_wrong_weights(value, message):
    with pytest.raises(ValidationError, match=message):
        weight(value)
