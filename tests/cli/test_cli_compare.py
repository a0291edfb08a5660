"""`hiercnn compare`: its table, its options, several runs at once, Ctrl-C."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compare.children import alive, await_true, comparable, odd
from train.tiny import BRANCHES, tiny

from hiercnn import Run
from hiercnn.compare import compare
from hiercnn.recipe import to_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def twins(recipe_file):
    """Two recipe files, flat and with heads."""
    return recipe_file(name="flat.yaml"), recipe_file(BRANCHES, "name=branches", name="branches.yaml")


def read(out: Path) -> dict:
    return json.loads((out / "compare.json").read_text())


# ---- what is printed and written ------------------------------------------------------------------------------------


@pytest.mark.long
def test_prints_the_table_of_its_file(command, twins, tmp_path):
    code, out, err = command("compare", *twins, "epochs=1", "--seeds", 2, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    result = read(tmp_path / "out")
    assert list(result["recipes"]) == ["flat", "branches"]
    assert len(result["recipes"]["flat"]["runs"]) == 2
    assert result["epochs"] == 1
    leaf = result["recipes"]["branches"]["accuracy"]["leaf"]
    for text in ("flat, seed 0\n", "branches, seed 1\n", "baseline", f"{100 * leaf['mean']:.1f} ± {100 * leaf['sd']:.1f}"):
        assert text in out
    assert out.endswith(f"written to {tmp_path / 'out' / 'compare.json'}, compare.md and compare.csv\n")
    again = command("compare", *twins, "epochs=1", "--seeds", 2, "--out", tmp_path / "out", "--quiet")
    assert "finished already" not in again.out
    assert "written to" not in again.out
    assert "baseline" in again.out


def test_paths_are_printed_as_they_are(command, recipe_file, tmp_path):
    out = tmp_path / "[bold]" / "[" / ("long" * 50)  # no markup, and nothing is folded
    command("compare", recipe_file(), "epochs=1", "--out", out)
    code, printed, _ = command("compare", recipe_file(), "epochs=1", "--out", out)
    assert code == 0
    assert f"flat, seed 0: finished already, in {out / 'flat-seed0'}\n" in printed
    assert f"written to {out / 'compare.json'}," in printed


# ---- options --------------------------------------------------------------------------------------------------------


def test_baseline_and_budgets(command, twins, tmp_path):
    code, out, _ = command("compare", *twins, "--baseline", "branches", "--budgets", "0.5, 1", "--out", tmp_path / "out")
    assert code == 0
    result = read(tmp_path / "out")
    assert result["baseline"] == "branches"
    assert [(point["share"], point["epochs"]) for point in result["budgets"]["flat"]] == [(0.5, 1), (1.0, 2)]
    assert Run(tmp_path / "out" / "branches-0.5E-seed0").finished
    for text in ("flat-0.5E, seed 0\n", "as good as the baseline at E"):
        assert text in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budgets", "half"], "--budgets: wanted shares of the epochs such as 0.4,0.6,0.8, got 'half'"),
        (["--budgets", "0.4;0.6"], "--budgets: wanted shares of the epochs such as 0.4,0.6,0.8, got '0.4;0.6'"),
        (["--budgets", "0.4,"], "--budgets: wanted shares of the epochs such as 0.4,0.6,0.8, got '0.4,'"),
        (["--budgets", "40,60"], "a budget is a share of the epochs, 0 < share <= 1; got 40"),
        (["--budgets", "0,0.5"], "a budget is a share of the epochs, 0 < share <= 1; got 0"),
        (["--budgets", "0.5", "schedule.name=constant"], "flat: budgets need a schedule that ends with training"),
        (["--baseline", "flt"], "no recipe here is called 'flt'; did you mean 'flat'?; the baseline is one of 'flat', 'branches'"),
        (["--baseline", "x"], "no recipe here is called 'x'; the baseline is one of 'flat', 'branches'"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--seeds", "0"], "Invalid value for '--seeds'"),
    ],
)
def test_options_that_make_no_sense(command, twins, tmp_path, options, message):
    code, out, err = command("compare", *twins, *options, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_twice_the_same(command, recipe_file, tmp_path):
    code, _, err = command("compare", recipe_file(), recipe_file(), "--out", tmp_path / "out")
    assert code == 2
    assert "needs recipes of different names" in err


# ---- in processes of their own --------------------------------------------------------------------------------------


@pytest.mark.long
def test_ctrl_c_stops_all_processes_and_the_same_command_goes_on(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    wait, out = tmp_path / "wait", tmp_path / "out"
    recipes = [odd(*more, wait_while=str(wait)) for more in ((), (BRANCHES, "name=branches"))]
    files = [tmp_path / f"{recipe.name}.yaml" for recipe in recipes]
    for file, recipe in zip(files, recipes, strict=True):
        file.write_text(to_yaml(recipe))
    arguments = ["compare", *map(str, files), "--jobs", "2", "--out", str(out), "--trust-imports"]
    runs = [Run(out / f"{recipe.name}-seed0") for recipe in recipes]

    wait.touch()
    parent = subprocess.Popen([sys.executable, "-m", "hiercnn", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        await_true(lambda: parent.poll() is not None or all(run.exists() and run.metrics for run in runs))
        parent.send_signal(signal.SIGINT)
        _, err = parent.communicate(timeout=300)
    finally:
        parent.kill()
        wait.unlink()  # what is left over does not wait any more
    assert not any(alive(int((run.path / "lock").read_text())) for run in runs)
    assert (parent.returncode, err) == (130, "hiercnn: stopped; every run has saved what it had. Go on with the same command\n")
    for run in runs:
        assert not run.finished
        assert f"everything is saved in {run.path}" in (run.path / "train.log").read_text()
    assert not (out / "compare.json").exists()

    code, printed, err = command(*arguments)
    assert (code, err) == (0, "")
    for text in ("flat, seed 0: resuming\n", "branches, seed 0: resuming\n", "flat, seed 0: done in ", "(2 of 2)\n", "written to "):
        assert text in printed
    alone = compare(recipes, out=tmp_path / "alone", trust_imports=True)
    assert comparable(read(out)) == comparable(alone)


@pytest.mark.long
def test_as_a_script(tmp_path):
    recipe = tiny("epochs=1").plain() | {"model": {"backbone": "alexnet_bn"}}  # tiny_net is known to the tests only
    (tmp_path / "flat.yaml").write_text(json.dumps(recipe))
    ended = subprocess.run(
        [sys.executable, ROOT / "tools" / "compare.py", tmp_path / "flat.yaml", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert read(tmp_path / "out")["baseline"] == "flat"
