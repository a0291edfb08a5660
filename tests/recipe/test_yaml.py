"""Recipe text: numbers, unique keys, extends, overrides."""

import pytest

from hiercnn.errors import RecipeError
from hiercnn.recipe._yaml import apply_overrides, find_recipe, merge, read_recipe_file, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1.5e+2", -150.0),
        ("3", 3),
        ("0.1", 0.1),
        ("1e", "1e"),
        ("n01", "n01"),
        ("null", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text, value):
    read = read_text(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_a_key_given_twice_is_refused_with_its_line():
    with pytest.raises(RecipeError, match="(?s)here is not valid YAML: .*'epochs' is given twice.*line 2"):
        read_text("epochs: 3\nepochs: 4\n", "here")


def test_tags_are_not_executed():
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_text("!!python/object/apply:os.system ['echo hi']", "here")


@pytest.mark.parametrize("text", [r'{"name": "\ud83e\udd8a"}', 'name: "\\U0001F98A"', "name: \N{FOX FACE}"])
def test_characters_beyond_two_bytes_are_read_as_json_and_yaml_write_them(text):
    assert read_text(text, "here") == {"name": "\N{FOX FACE}"}


def test_keys_are_joined_too_and_backslashes_stay():
    assert read_text(r"""{"\ud83e\udd8a": '\ud83e', "b": "\\ud83e"}""", "here") == {"\N{FOX FACE}": r"\ud83e", "b": r"\ud83e"}


@pytest.mark.parametrize("text", [r'"\ud83e"', r'"\udd8a\ud83e"', r'"\ud83e and \udd8a"', r'{"\ud83e": 1}'])
def test_half_a_character_is_refused_with_its_line(text):
    with pytest.raises(RecipeError, match="(?s)here is not valid YAML: half of a surrogate pair.*line 2"):
        read_text(f"\n{text}", "here")


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    (tmp_path / "a.yaml").write_text("x: {p: 1, q: 2}\nl: [1, 2]\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("extends: ../a.yaml\nx: {q: 3}\nl: [4]\n")
    assert read_recipe_file(tmp_path / "sub" / "b.yaml") == {"x": {"p": 1, "q": 3}, "l": [4]}


def test_extends_of_itself_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"a\.yaml extends itself, through a\.yaml → b\.yaml"):
        read_recipe_file(tmp_path / "a.yaml")


def test_extends_of_nothing_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: flt.yaml\n")
    with pytest.raises(RecipeError, match=r"extends: there is no file 'flt\.yaml' beside it"):
        read_recipe_file(tmp_path / "a.yaml")


def test_recipes_that_are_no_mapping_or_not_utf8(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n")
    (tmp_path / "b.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match="should hold a mapping of settings"):
        read_recipe_file(tmp_path / "a.yaml")
    with pytest.raises(RecipeError, match="is not UTF-8"):
        read_recipe_file(tmp_path / "b.yaml")


def test_overrides_reach_values_lists_and_new_keys():
    raw = {"optim": {"lr": 1}, "model": {"heads": [{"weight": 1}, {"weight": 2}]}}
    changed = apply_overrides(raw, ["optim.lr=2e-1", "model.heads.1.weight={linear: {start: 1}}", "data.augment.flip=true"])
    assert changed["optim"]["lr"] == 0.2
    assert changed["model"]["heads"] == [{"weight": 1}, {"weight": {"linear": {"start": 1}}}]
    assert changed["data"] == {"augment": {"flip": True}}
    assert raw["optim"]["lr"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "should look like key.sub=value"),
        ("=3", "should look like key.sub=value"),
        ("l.2=1", r"'2' is no item of a list of 2; items are 0\.\.1"),
        ("n.x=1", "there is nothing below the value 3"),
        ("n=[1", "not valid YAML"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(RecipeError, match=message):
        apply_overrides({"n": 3, "l": [1, 2]}, [override])


def test_merge_does_not_change_its_inputs():
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_find_recipe_takes_files_and_shipped_names(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine\n")
    assert find_recipe(own) == own
    assert find_recipe("quickstart/flat").samefile(find_recipe("recipes/quickstart/flat.yaml"))
    with pytest.raises(RecipeError, match="did you mean 'quickstart/flat'"):
        find_recipe("quickstart/flta")
