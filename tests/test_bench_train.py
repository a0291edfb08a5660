"""tools/bench/bench_train.py: its photos, what it reads of timm's log, and rows of tiny settings."""

import argparse
import csv
from pathlib import Path

import pytest
from PIL import Image

from hiercnn.errors import HierCNNError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "bench")
    import bench_train

    return bench_train


def tiny(bench, steps: int = 2, rounds: int = 1):
    return bench.Setting("resnet_small", 16, 8, "float32", steps, rounds, "cpu")


def rows_of(bench, monkeypatch, tmp_path, *arguments) -> list[dict[str, str]]:
    """What the script writes of two rounds of a tiny model."""
    for name in ("HIERCNN_CACHE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # the script changes them; the tests after this one get theirs back
    names = ("files", "memory", "small")
    monkeypatch.setattr(bench, "settings", lambda given: dict.fromkeys(names, tiny(bench, given.steps, given.rounds)))
    out = tmp_path / "train.csv"
    monkeypatch.setattr("sys.argv", ["bench_train.py", "--rounds", "2", "--steps", "6", "--out", str(out), *map(str, arguments)])
    bench.main()
    with open(out, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_loops_and_steps(bench, monkeypatch, tmp_path):
    rows = rows_of(bench, monkeypatch, tmp_path, "--only", "memory", "bfloat16")
    assert [row["what"] for row in rows] == ["loop / bare images per second", *["bfloat16 / float32 step time"] * 3]
    assert rows[0]["note"] == "memory: images in memory, float32"
    assert {row["rounds"] for row in rows} == {"2"}
    assert all(0 < float(row["q25"]) <= float(row["median"]) <= float(row["q75"]) for row in rows)


@pytest.mark.long
def test_files_beside_timm(bench, monkeypatch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "assert {'--model=resnet_small', '--workers=2', '--batch-size=8', '--num-classes=8'} <= set(sys.argv)\n"
        "for step in range(6): print(f'Train: 0 [{step:>4d}/6 (10%)]  Loss: 6.9 (6.9)  Time: {0.5 if step > 3 else 9:.3f}s, 16.00/s')\n"
    )
    rows = rows_of(bench, monkeypatch, tmp_path, "--only", "files", "--timm-train", script)
    assert [row["what"] for row in rows] == ["loop / bare images per second", "loop / timm images per second"]
    photos = bench.make_photos(tmp_path / "photos", tiny(bench))
    assert bench.timm_speed(script, photos, tiny(bench)) == pytest.approx(8 / 0.5)


def test_a_script_that_fails_is_quoted(bench, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("raise ValueError('no such option')")
    photos = bench.make_photos(tmp_path / "photos", tiny(bench))
    with pytest.raises(HierCNNError, match=r"train\.py gave 0 steps, wanted more than 4:(?s:.)*no such option"):
        bench.timm_speed(script, photos, tiny(bench))


def test_photos_are_of_natural_size(bench, tmp_path):
    root = bench.make_photos(tmp_path, tiny(bench))
    made = sorted(root.rglob("*.jpg"))
    assert len(made) == 2 * 8 + bench.CLASSES
    with Image.open(made[0]) as photo:
        assert (photo.format, photo.size) == ("JPEG", (500, 375))
    assert 40_000 < made[0].stat().st_size < 160_000


def test_every_setting_has_its_model(bench):
    made = bench.settings(argparse.Namespace(steps=None, rounds=3, device="cpu"))
    models = {name: (one.backbone, one.size) for name, one in made.items()}
    assert models == {"files": ("resnet18", 64), "memory": ("tf_efficientnet_lite0", 96), "small": ("resnet_small", 32)}


def test_wrong_arguments(bench, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_train.py", "--only", "nothing"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_the_readme_s_table(bench, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import result_tables

    (tmp_path / "tools" / "bench").mkdir(parents=True)
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    for median in (0.9, 0.97):  # the last row of a kind counts
        made = bench.row(tiny(bench), "loop / bare images per second", [median] * 3, "small")
        bench.append(tmp_path / "tools" / "bench" / "train.csv", [made])
    table = result_tables.rewritten("<!-- table train -->\n<!-- end -->")
    assert "| loop / bare images per second | resnet_small, 16 px, batch 8 | 0.97 [0.97, 0.97] | 3 | small |" in table
    assert "0.9 [" not in table
