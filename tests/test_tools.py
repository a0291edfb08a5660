"""The scripts under tools/ that read finished runs."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.clustering import partition_agreement
from hiercnn.hierarchy import builtin
from hiercnn.recipe import cluster_run

ROOT = Path(__file__).parents[1]


def class_differences(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/class_differences.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    recipes = {"flat": tiny("epochs=1"), "branches": tiny("epochs=1", BRANCHES, "name=branches"), "other": tiny("epochs=1", "seed=1")}
    return {name: fit(recipe, run_dir=folder / name) for name, recipe in recipes.items()}


@pytest.mark.long
def test_class_differences_of_groups_average_to_the_difference_in_accuracy(runs):
    shown = class_differences(runs["flat"].path, "--with", runs["branches"].path)
    assert shown.returncode == 0, shown.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.stdout.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 9
    accuracies = [run.end["test"]["accuracy"] for run in (runs["branches"], runs["flat"])]
    for column, level in ((1, "9 groups"), (2, "leaf")):  # the groups are of one size, so their mean is that of the images
        assert sum(float(row[column]) for row in rows) / 9 == pytest.approx(100 * (accuracies[0][level] - accuracies[1][level]), abs=0.05)


@pytest.mark.long
def test_class_differences_want_pairs(runs):
    shown = class_differences(runs["flat"].path, "--with", runs["other"].path)
    assert shown.returncode == 2
    assert "are no pair: another seed" in shown.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (lambda path: [path, "--with", path, path], "1 runs of the baseline and 2 of the other are no pairs"),
        (lambda path: [path, "--with", path, "--groups", "99"], "groups=99: the tree has 36 classes"),
        (lambda path: [path / "nothing", "--with", path], "no run in"),
    ],
)
def test_class_differences_say_what_is_wrong(runs, more, message):
    shown = class_differences(*more(runs["flat"].path))
    assert shown.returncode == 2
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.long
def test_tree_agreement_has_a_row_for_every_way_and_tree(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import tree_agreement

    out = tmp_path / "agreement.csv"
    monkeypatch.setattr(
        "sys.argv", ["tree_agreement.py", *map(str, [runs["flat"].path, "--trees", "synthetic", "--groups", "9", "--out", out])]
    )
    tree_agreement.main()
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["linkage"], row["metric"] or None) for row in rows] == tree_agreement.WAYS
    assert {row["groups"] for row in rows} == {"9"}
    found = cluster_run(runs["flat"], "weights", linkage="ward", metric="unit")
    part = partition_agreement(found.dendrogram.groups(9), builtin("synthetic").cut(groups=9).groups)
    row = next(row for row in rows if (row["source"], row["linkage"]) == ("weights", "ward"))
    assert float(row["ari"]) == pytest.approx(part.ari, abs=1e-4)
    assert "weights ward unit" in capsys.readouterr().out


def test_tree_agreement_says_what_is_wrong(runs, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import tree_agreement

    for arguments, said in [(["nowhere"], "no run in"), ([runs["flat"].path, "--trees", "cifar10"], "prune them away")]:
        monkeypatch.setattr("sys.argv", ["tree_agreement.py", *map(str, arguments)])
        with pytest.raises(SystemExit):
            tree_agreement.main()
        assert said in capsys.readouterr().err


def test_decision_rules_are_told_side_by_side(tmp_path, monkeypatch, capsys):
    runs = [fit(tiny(BRANCHES, "epochs=2", f"seed={seed}"), run_dir=tmp_path / str(seed)) for seed in range(2)]
    monkeypatch.syspath_prepend(ROOT / "tools")
    import decision_rules

    monkeypatch.setattr("sys.argv", ["decision_rules", *(str(run.path) for run in runs), "--csv", str(tmp_path / "rules.csv")])
    decision_rules.main()
    assert "mean of 2 runs" in capsys.readouterr().out
    with open(tmp_path / "rules.csv", newline="", encoding="utf-8") as file:
        found = {(row["rule"], row["statistic"]): float(row["mean"]) for row in csv.DictReader(file)}
    top1 = sum(run.end["test"]["accuracy"]["leaf"] for run in runs) / 2
    assert found["argmax", "right"] == found["argmax", "top-1"] == found["argmax", "class right"] == pytest.approx(top1)
    assert found["argmax", "HD@1"] == pytest.approx(sum(run.end["test"]["hd1"] for run in runs) / 2)
    assert found["crm", "HD@1"] <= found["argmax", "HD@1"] + 0.1
    assert found["auto", "information"] <= found["argmax", "information"] == 1
    assert sum(found["auto", f"at {level}"] for level in ("root", "3 groups", "9 groups")) + found["auto", "classes"] == pytest.approx(1)
    assert {rule for rule, _ in found} == {*decision_rules.RULES, "hAURC"}


def test_early_answers_are_told_beside_the_whole_network(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import early_answers

    run = runs["branches"]
    arguments = ["--rounds", "1", "--loss", "0.3", "--csv", str(tmp_path / "early.csv")]
    monkeypatch.setattr("sys.argv", ["early_answers", str(run.path), *arguments])
    early_answers.main()
    assert "whole network" in capsys.readouterr().out
    with open(tmp_path / "early.csv", newline="", encoding="utf-8") as file:
        rows = {(row["answers from"], row["cut"]): row for row in csv.DictReader(file)}
    test = run.end["test"]
    for name, cut in (("stage0_3", "3 groups"), ("stage1_9", "9 groups")):
        assert float(rows[name, cut]["accuracy"]) == pytest.approx(test["heads"][name])
    assert float(rows["whole network", "leaf"]["accuracy"]) == pytest.approx(test["accuracy"]["leaf"])
    gated = rows["stage0_3, loss 0.3", "3 groups"]
    share, cost = float(gated["early"]), float(rows["stage0_3", "3 groups"]["cost"])
    assert float(gated["cost"]) == pytest.approx(share * cost + 1 - share)
    assert early_answers.figure([list(map(_number, row.values())) for row in rows.values()], "title").data


def _number(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


@pytest.mark.long
def test_photos_and_answers_stand_side_by_side(tmp_path):
    photos = tmp_path / "photos" / "cats & <dogs>"
    photos.mkdir(parents=True)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    (photos / "no.png").write_text("no image")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    command = [sys.executable, "tools/photo_answers.py", "test_resnet", tmp_path / "photos", "--weights", tmp_path / "weights.safetensors"]
    more = ["--rules", "argmax", "crm", "--out", tmp_path / "out", "--name", "answers"]
    shown = subprocess.run([*map(str, [*command, *more])], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"BROWSER_PATH": "-"})
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "out" / "answers.html").read_text()
    assert page.count("data:image") == 3
    assert "<dogs>" not in page
    assert page.count("no class has more") == 3
    nothing = subprocess.run([*map(str, [*command, "--rules", "argmax", "--unsure"])], cwd=ROOT, capture_output=True, text=True)
    assert nothing.returncode == 2
    assert "no photo is left to show" in nothing.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "last"),
    [
        (["fuzz.py", "--cases", "40", "--only", "edges.csv", "state.pt"], "state.pt: 40 cases"),
        (["soak.py", "--epochs", "200"], "nothing grows beyond its bound"),
        (["torture.py", "--kills", "2", "--scenarios", "sigterm", "memory_full"], "kills 2, differing metrics 0, unreadable checkpoints 0"),
    ],
)
def test_files_and_trainings_withstand_violence(command, last, tmp_path):
    run = subprocess.run([sys.executable, ROOT / "tools" / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith(last)
