"""The profile of a step: sections that add up, a trace that can be read, and a run that ends as without it."""

import json

import pytest
from train.tiny import BRANCHES, Spy, assert_same_run, tiny

from hiercnn import fit


class Notes(Spy):
    def __init__(self):
        super().__init__(lambda *at: None)
        self.notes: list[str] = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run of 15 batches, 13 of which the profile needs, and what it told."""
    display = Notes()
    recipe = tiny(BRANCHES, "epochs=3", "data.augment.mix={mixup: 0.2}")
    run = fit(recipe, run_dir=tmp_path_factory.mktemp("profile") / "run", display=display, profile=True)
    return run, recipe, display.notes


def test_the_table_tells_every_section_and_the_longest_operators(profiled):
    run, _, (_, table) = profiled
    assert (run.path / "profile" / "steps.txt").read_text() == table + "\n"
    lines = table.splitlines()
    assert lines[0].startswith("a training step of ")
    rows = {line.split()[0]: float(line.split()[1]) for line in lines[1:6]}
    assert list(rows) == ["data", "forward", "loss", "backward", "update"]
    assert sum(rows.values()) == pytest.approx(float(lines[0].split()[4]), abs=0.3)
    assert min(rows["forward"], rows["backward"]) > 0
    assert any("convolution" in line for line in lines)


def test_the_trace_holds_the_sections(profiled):
    run, *_ = profiled
    names = [event.get("name") for event in json.loads((run.path / "profile" / "trace.json").read_text())["traceEvents"]]
    assert names.count("forward") >= 10
    assert any("convolution" in str(name) for name in names)


def test_a_profiled_run_ends_as_any_other(profiled, tmp_path):
    run, recipe, _ = profiled
    assert_same_run(fit(recipe, run_dir=tmp_path), run)


def test_a_run_that_is_too_short_says_so(tmp_path):
    display = Notes()
    fit(tiny("epochs=1"), run_dir=tmp_path, display=display, profile=True)
    assert display.notes[1:] == ["no profile: it needs 13 batches, and there were 5"]
