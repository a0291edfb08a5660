"""The README is true: its code runs, its commands exist, its tables are those of the measurements, its map is complete."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hiercnn.cli._app import app
from hiercnn.recipe import Recipe, load_recipe, shipped_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) for kind in ("sh", "python", "yaml")}
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS["sh"] for line in block.splitlines() if line.startswith("hiercnn ")]


@pytest.mark.long
def test_the_python_examples_run_and_are_short(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in BLOCKS["python"]:
        assert len(code.splitlines()) <= 16
        exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].grad.isfinite().all()
    assert "'leaf':" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").exists()


@pytest.mark.long
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] in ("recipes", "hierarchy") and "birds" not in c])
def test_cheap_commands_run(command, tmp_path, monkeypatch, request):
    if " build " in command:
        request.getfixturevalue("wordnet")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command):
    words = shlex.split(command)[1:]
    path = words[: 2 if words[0] in ("recipes", "hierarchy") else 1]
    help_text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert help_text.exit_code == 0
    assert all(word in help_text.output for word in words if word.startswith("--"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] in ("train", "compare")])
def test_recipes_of_commands_exist_and_take_the_settings(command):
    words = shlex.split(command)[2:]
    recipes = [word for word in words if word in shipped_recipes()]
    assert recipes
    keys = [word.split("=")[0] for word in words if "=" in word]
    assert len(keys) == len(set(keys))
    for recipe in recipes:
        data_or_run = recipe.startswith(("grocery", "finetune/")) or recipe.endswith("_clustered")
        load_recipe(recipe, [word for word in words if "=" in word], check=not data_or_run)


def test_the_recipe_example_is_valid():
    shown, *fragments = (yaml.safe_load(block) if "extends" in block else block for block in BLOCKS["yaml"])
    raw = load_recipe("cifar100/flat").plain() | {"name": shown["name"], "epochs": 20}
    raw["model"]["heads"] = shown["model"]["heads"]
    assert len(load_recipe(raw).model.heads) == 3
    for line in "".join(fragments).splitlines():
        (section,) = yaml.safe_load(line)
        assert section in Recipe.model_fields
    (search,) = (line for line in "".join(fragments).splitlines() if line.startswith("search:"))
    assert load_recipe(raw | yaml.safe_load(search)).search.trials == 8


def test_the_table_of_keys_knows_every_section():
    table = README.split("| section |")[1].split("\n\n")[0]
    assert {field for field in Recipe.model_fields if f"`{field}`" not in table and f" {field} " not in table.replace("`", " ")} == set()


def test_tables_are_those_of_the_measurements():
    run = subprocess.run([sys.executable, "tools/result_tables.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_map_names_every_folder_and_tool():
    folders = {p.name for p in (ROOT / "hiercnn").iterdir() if (p / "__init__.py").exists()}
    tools = {p.name for p in (ROOT / "tools").glob("*.py")}
    map_text = README.split("## Map of the code")[1]
    assert {name for name in folders | tools if name not in map_text} == set()


def test_ci_runs_the_readme_s_test_line():
    pattern = re.search(r"grep -m1 '(.*?)' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))[1]
    assert len(re.findall(pattern.replace("\\.", r"\."), README, re.MULTILINE)) == 1
