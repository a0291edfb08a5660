"""`hiercnn recipes` and `hiercnn doctor`."""

from hiercnn.cli._recipes import _chain
from hiercnn.data import cache_folder
from hiercnn.recipe import load_recipe, recipes_folder, shipped_recipes


def test_list_shows_every_recipe_with_its_first_line(command):
    code, out, _ = command("recipes", "list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == shipped_recipes()
    assert "Flat: a small plain net" in lines["quickstart/flat"]


def test_copy_brings_what_is_extended(command, tmp_path):
    code, out, _ = command("recipes", "copy", "quickstart/branches", tmp_path)
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "quickstart").iterdir()) == ["branches.yaml", "flat.yaml"]
    assert out.splitlines() == [f"wrote {tmp_path / 'quickstart' / name}.yaml" for name in ("branches", "flat")]
    assert load_recipe(tmp_path / "quickstart" / "branches.yaml") == load_recipe("quickstart/branches")


def test_copy_of_a_folder(command, tmp_path):
    command("recipes", "copy", "cifar100/", tmp_path)
    wanted = {file.name for file in (recipes_folder() / "cifar100").iterdir()}
    assert {file.name for file in (tmp_path / "cifar100").iterdir()} == wanted


def test_copy_leaves_files_alone(command, tmp_path):
    mine = tmp_path / "quickstart" / "flat.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    out = command("recipes", "copy", "quickstart/branches", tmp_path).out
    assert mine.read_text() == "mine"
    assert f"left alone: {mine} is there already" in out
    assert (tmp_path / "quickstart" / "branches.yaml").exists()


def test_copy_into_a_file(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command("recipes", "copy", "quickstart/flat", tmp_path / "file")
    assert code == 2
    assert "cannot write" in err


def test_copy_of_an_unknown_recipe(command, tmp_path):
    code, _, err = command("recipes", "copy", "quickstart/flt", tmp_path)
    assert (code, err) == (2, "hiercnn: no shipped recipe 'quickstart/flt'; did you mean 'quickstart/flat'? (hiercnn recipes list)\n")


def test_copy_from_a_linked_folder(command, tmp_path, monkeypatch):
    (tmp_path / "linked").symlink_to(recipes_folder())
    monkeypatch.setattr("hiercnn.cli._recipes.recipes_folder", lambda: tmp_path / "linked")
    assert command("recipes", "copy", "quickstart/branches", tmp_path / "own").code == 0
    assert (tmp_path / "own" / "quickstart" / "flat.yaml").exists()


def test_every_shipped_recipe_has_its_chain():
    for name in shipped_recipes():
        assert all(file.is_file() for file in _chain(recipes_folder() / f"{name}.yaml"))


def test_doctor_tells_what_is_here(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there are no data
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    for text in ("python 3.", "torch 2.", "device: ", "auto precision ", "built-in trees: cifar10, ", f"cache: {cache_folder()}"):
        assert text in out
    assert "data synthetic: built in" in out
    assert "data cifar100: not found. " in out
    assert "WordNet: " in out
