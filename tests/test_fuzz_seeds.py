"""Cases of `tools/fuzz.py` that broke something once, read again: `python tools/fuzz.py --only FORMAT --first CASE --cases 1`."""

import sys
from pathlib import Path

import pytest

import hiercnn

SEEDS = {
    "linkage.npy": [55, 71],
    "recipe.yaml": [139, 291],
    "classes.txt": [1717],
    "recipe of a run": [198],
    "metrics.jsonl": [51, 52, 145, 243, 997, 2458],
    "environment.json": [0, 8, 17, 28, 30, 151, 196, 222],
    "state.pt": [2, 5, 6, 17, 24, 53, 57, 75, 77, 95, 135, 157, 213],
    "archive of state.pt": [3, 114, 171],
    "last.safetensors": [10, 12, 74, 223],
    "val.npz": [40, 66, 99, 184, 199],
    "val-epoch.npz": [8, 9, 12],
    "moment.npz": [71, 139],
    "means.npz": [3, 4, 5, 22, 179],
    "statistics.npz": [54, 3148],
    "config.json": [244],
}


@pytest.fixture(scope="module")
def fuzz():
    """The tool as a module."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    import fuzz

    sys.path.pop(0)
    return fuzz


@pytest.fixture(scope="module")
def formats(fuzz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "work"
    folder.mkdir()
    run = hiercnn.fit(fuzz.RECIPE, run_dir=folder / "run")
    made = [fuzz.hierarchies(folder), fuzz.recipes(folder), fuzz.of_data(folder), fuzz.of_run(run.path), fuzz.weights(folder, run)]
    return {name: each for part in made for name, each in part.items()}


@pytest.fixture(scope="module")
def watch(fuzz, formats):
    return fuzz.Watch(formats["tree.json"].file.parent)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SEEDS)
def test_what_broke_once_is_read_or_refused(name, fuzz, formats, watch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    each = formats[name]
    each.read(each.file)  # good as it is
    try:
        for number in SEEDS[name]:
            assert fuzz.outcome(each, each.case(name, number), watch) in ("read", "refused")
    finally:
        each.file.write_bytes(each.content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("deed", ["a file beside", "a folder beside", "a process", "a pickle"])
def test_what_is_done_beside_reading_is_seen(deed, fuzz, formats, watch, tmp_path):
    import pickle
    import subprocess

    deeds = {
        "a file beside": lambda file: (tmp_path / "x").write_text(""),
        "a folder beside": lambda file: (tmp_path / "x").mkdir(),
        "a process": lambda file: subprocess.run(["true"], check=True),
        "a pickle": lambda file: pickle.loads(b"cos\ngetpid\n."),
    }
    tree = formats["tree.json"]
    with pytest.raises(fuzz.Broken):
        fuzz.outcome(fuzz.Format(tree.file, deeds[deed]), tree.content, watch)
