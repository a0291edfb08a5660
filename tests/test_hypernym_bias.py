"""tools/hypernym_bias.py: trains what is not there yet, measures it, and tabulates the findings over seeds."""

import csv
from pathlib import Path

import numpy as np
import pytest
from train.tiny import tiny

from hiercnn.dynamics import Finding, findings
from hiercnn.recipe import Run, dynamics_of_run, to_yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import hypernym_bias

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["hypernym_bias", *map(str, arguments)])
        hypernym_bias.main()

    run.module = hypernym_bias
    return run


@pytest.mark.long
def test_a_table_of_findings_over_seeds(tool, tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny("epochs=1")), encoding="utf-8")
    command = (recipe, "optim.lr=0.04", "--seeds", 2, "--out", tmp_path / "runs", "--images", 72, "--no-probes", "--csv")
    tool(*command, tmp_path / "one.csv")
    assert "B1" in capsys.readouterr().out
    seeds = [Run(tmp_path / "runs" / f"flat-seed{seed}") for seed in range(2)]
    assert [run.recipe.optim.lr for run in seeds] == [0.04, 0.04]
    wanted = [findings(dynamics_of_run(run, images=72, probes=False).story) for run in seeds]
    with open(tmp_path / "one.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["claim"] for row in table] == sorted(finding.claim for finding in wanted[0])
    lifts = [next(finding for finding in each if finding.claim == "A1").value for each in wanted]
    assert table[0]["value"] == f"{np.mean(lifts):.3g} ± {np.std(lifts, ddof=1):.2g}"
    monkeypatch.setattr("hiercnn.train._trainer.Trainer._train_epoch", None)  # what is there is not trained again
    tool(*command, tmp_path / "two.csv")
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


def test_a_claim_needs_every_seed(tool):
    def seeds(*supported):
        return [Finding("A1", "what", 1.0, 0.5, each) for each in supported]

    verdict = tool.module.verdict
    assert verdict(seeds(True, True)) == "supported, 2 of 2 seeds"
    assert verdict(seeds(True, False)) == "not supported, 1 of 2 seeds"
    assert verdict(seeds(True, None)) == "not supported, 1 of 2 seeds"
    assert verdict(seeds(None)) == "not supported, 0 of 1 seeds"


def test_mistyped_recipes_are_told(tool, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        tool("cifar100/flatt", "--out", tmp_path / "runs")
    assert stopped.value.code == 2
    assert "did you mean 'cifar100/flat'" in capsys.readouterr().err
