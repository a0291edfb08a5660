"""Pages from good and bad run folders: what they hold, what they say, what is refused."""

import base64
import csv
import gzip
import json
import re
import shutil

import numpy as np
import pytest
from report.conftest import HOSTILE, three_levels

from hiercnn.errors import CheckpointError
from hiercnn.hierarchy import from_edges
from hiercnn.report import write_report


def held(page, name: str = "data") -> object:
    """What the page holds for its script."""
    text = page.read_text(encoding="utf-8", errors="surrogateescape")
    packed = re.search(f'id="{name}">([^<]*)</script>', text)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)).decode("utf-8", "surrogateescape"))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write_report([run.path], tmp_path_factory.mktemp("page") / "report.html").path


def test_everything_is_in_one_file(page):
    text = page.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL))
    assert not re.search(r"@import|url\(http", text)
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert "{{" not in re.sub(r"<script>.*", "", text, flags=re.DOTALL)


def test_the_same_run_gives_the_same_page(run, page, tmp_path):
    assert write_report([run.path], tmp_path / "again.html").path.read_bytes() == page.read_bytes()


def test_pictures_of_images_and_their_names(run, page):
    sets = held(page)["sets"]
    assert {len(images["ids"]) for images in sets.values()} == {60, 120}
    numbers = [np.frombuffer(base64.b64decode(images["pictures"]["data"]), "<i4") for images in sets.values()]
    assert sorted(np.concatenate(numbers)) == list(range(180))
    assert page.read_text().count('class="sheet"') == 1


@pytest.mark.long
def test_a_report_is_replaced_and_another_file_is_not(run, tmp_path):
    out = tmp_path / "new" / "report.html"
    first = write_report([run.path], out, thumbnails=0).size
    assert write_report([run.path], out, thumbnails=0, images=0).size < first
    out.write_text("<html>mine</html>")
    with pytest.raises(CheckpointError, match=r"report.html exists and is no report; name another file with --out"):
        write_report([run.path], out)
    assert out.read_text() == "<html>mine</html>"


def test_a_place_that_cannot_be_written_is_told_before_the_work(run, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "report.html", tmp_path):
        with pytest.raises(CheckpointError, match="cannot write .*; name another file with --out"):
            write_report([run.path / "nothing"], out)


@pytest.mark.long
def test_folders_of_runs_and_folders_of_nothing(run, tmp_path):
    found = write_report([run.path.parent, run.path], tmp_path / "report.html", images=0, thumbnails=0)
    assert [each.path for each in found.shown] == [run.path]
    with pytest.raises(CheckpointError, match=r"no run in .*nothing; give run folders \(with recipe.yaml\), or a folder of them"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")


@pytest.mark.long
def test_a_run_without_its_images(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=3)
    shutil.rmtree(tmp_path / "run-images")
    found = write_report([run.path], tmp_path / "report.html")
    assert "No pictures of run: " in found.notes[-1]
    assert "images.csv" in held(found.path)["pictures"]


@pytest.mark.long
def test_some_images_are_gone(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=3)
    for file in sorted((tmp_path / "run-images" / "test").iterdir())[:3]:
        file.unlink()
    text = held(write_report([run.path], tmp_path / "report.html").path)["pictures"]
    assert text == "177 of 180 images have a picture; 3 could not be opened"


def half_written(bench, tmp_path, epochs: int):
    """A run that was stopped after some epochs."""
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=4, responses=False)
    run.keep_events(1 + epochs)
    for file in run.predictions.glob("*.npz"):
        if "epoch" not in file.stem or int(file.stem[-4:]) > epochs:
            file.unlink()
    with open(run.metrics_file, "a") as metrics:
        metrics.write('{"event": "epo')
    return run


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_half_written_run(bench, tmp_path, epochs):
    run = half_written(bench, tmp_path, epochs)
    found = write_report([run.path], tmp_path / "report.html")
    text = found.path.read_text()
    assert "Not finished, so in no table: run." in text
    assert f"<td>{epochs} of 4</td>" in text
    assert any("No predictions yet" in note for note in found.notes) == (epochs == 0)
    assert any("No response map: " in note for note in found.notes) == (epochs > 0)
    assert len(held(found.path)["runs"][0]["evaluations"]) == epochs


@pytest.mark.long
def test_a_run_of_one_epoch(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1)
    data = held(write_report([run.path], tmp_path / "report.html").path)
    assert [(one["split"], one["epoch"]) for one in data["runs"][0]["evaluations"]] == [("val", 1), ("test", 1)]


def test_a_damaged_run_is_named(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1, images=False)
    run.metrics_file.write_text("")
    with pytest.raises(CheckpointError, match="has not begun; delete that folder"):
        write_report([run.path], tmp_path / "report.html")


def test_a_run_without_a_file_is_named(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1, images=False)
    (run.path / "environment.json").unlink()
    with pytest.raises(CheckpointError, match=r"run is damaged .*environment.json"):
        write_report([run.path], tmp_path / "report.html")


def test_names_are_escaped(bench, tmp_path):
    tree = from_edges([("root", "<b>group</b>"), ("root", "</style>"), *(("<b>group</b>", name) for name in HOSTILE), ("</style>", "leaf")])
    run = bench.made_run(tmp_path / "<i>run", tree.with_classes(sorted(tree.classes)), epochs=2, cuts=[{"depth": 1}])
    page = write_report([run.path], tmp_path / "report.html").path
    text = page.read_text()
    for name in ("alert(", "<b>group", "<i>run", "<img"):
        assert name not in text
    assert "&lt;i&gt;run" in text
    assert set(HOSTILE) <= set(held(page)["runs"][0]["tree"]["names"])
    assert text.count("</script>") == 5


def test_learning_is_shown_if_it_was_measured_and_told_how_else(page, run):
    (learning,) = held(page)["learning"]
    assert learning["findings"] == []
    assert f"Train it with checkpoints.keep=log, call hiercnn dynamics {run.path}, and make the report again." in learning["text"]


ROW = {"rank": 2, "score": 0.5, "split": "test", "image": "test/000003.png", "label": "alone", "predicted": "a0 x", "other_image": "",
       "sentence": "=cmd() looks like a0 x"}  # fmt: skip


def write_findings(run, name: str, *rows: dict) -> None:
    folder = run.path / "diagnose" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.long
def test_faults_are_listed_by_rank_with_pictures(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=2)
    write_findings(run, "mislabel.csv", ROW, ROW | {"rank": 1, "image": "train/000000.png"})
    write_findings(
        run, "pairs.csv", ROW | {"image": "", "label": "", "predicted": ""}, ROW | {"rank": 3, "other_image": "train/000001.png"}
    )
    write_findings(run, "other.csv", {"rank": 1, "score": 2})
    write_findings(run, "bad.csv", ROW | {"rank": "first"})
    page = write_report([run.path], tmp_path / "report.html").path
    (found,) = held(page)["faults"]
    mislabel, pairs = found["lists"]
    assert [(row["rank"], row["image"]) for row in mislabel["rows"]] == [("1", "train/000000.png"), ("2", "test/000003.png")]
    assert mislabel["detector"] == "mislabel (test)"
    assert [len([number for number in row["pictures"] if number >= 0]) for row in (*mislabel["rows"], *pairs["rows"])] == [1, 1, 0, 2]
    assert found["text"] == [
        "test/bad.csv is left out: rank should be a whole number, got 'first'.",
        "test/other.csv is left out: it lacks the columns split, image, label, predicted, other_image, sentence.",
    ]


@pytest.mark.long
def test_findings_of_a_run_that_was_trained_anew_are_told(bench, tmp_path):
    run = bench.made_run(tmp_path / "run", three_levels(), epochs=1, images=False)
    write_findings(run, "mislabel.csv", ROW)
    facts = run.path / "diagnose" / "test" / "facts.json"
    for digest, told in ((run.digest, []), ("of another", ["test was judged before"])):
        facts.write_text(json.dumps({"run": digest}))
        text = held(write_report([run.path], tmp_path / "report.html", images=0).path)["faults"][0]["text"]
        assert [line[:22] for line in text] == told


def test_a_run_that_has_not_begun_does_not_stop_the_others(bench, tmp_path):
    for name in ("one", "two"):
        run = bench.made_run(tmp_path / "runs" / name, three_levels(), name=name, epochs=1, images=False)
    run.metrics_file.write_text("")
    found = write_report([tmp_path / "runs"], tmp_path / "report.html", images=0)
    assert [run.path.name for run in found.shown] == ["one"]
    assert "Not begun, so left out: two." in found.path.read_text()


@pytest.mark.long
def test_figures_of_folders_of_one_name_are_kept_apart(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "nowhere")
    for name in ("plain", "with"):
        bench.made_run(tmp_path / name / "run", three_levels(), name=name, epochs=1, images=False)
    found = write_report([tmp_path / "plain", tmp_path / "with"], tmp_path / "report.html", figures=tmp_path / "figures", images=0)
    assert {"run-plain-tree", "run-with-tree"} <= {path.stem for path in found.figures.paths}


def test_without_findings_the_page_says_how_to_make_them(page, run):
    assert f"call hiercnn diagnose {run.path}" in held(page)["faults"][0]["text"][0]


@pytest.mark.long
def test_every_figure_as_csv_too(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "nowhere")
    found = write_report([run.path], tmp_path / "report.html", figures=tmp_path / "figures")
    names = {path.stem for path in found.figures.paths}
    assert {"accuracy-by-epoch", "gap-by-level", "flat-confusion", "flat-tree", "flat-responses-stage0"} <= names
    assert "svg and png need Chrome or Chromium" in found.figures.left_out
    with open(tmp_path / "figures" / "flat-confusion.csv", newline="") as file:
        total = sum(int(row["value"]) for row in csv.DictReader(file))
    with np.load(run.predictions / "test.npz") as arrays:
        assert total == (arrays["logits"].argmax(1) != arrays["labels"]).sum()
    with open(tmp_path / "figures" / "gap-by-level.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["panel"] == "x"]
    event = run.metrics[0]
    wanted = 100 * (event["train_subset"]["accuracy"]["3 groups"] - event["val"]["accuracy"]["3 groups"])
    assert (rows[0]["trace"], float(rows[0]["y"])) == ("made-flat", pytest.approx(wanted))


@pytest.mark.long
def test_a_table_of_several_runs_is_that_of_compare(bench, tmp_path):
    tree = three_levels()
    head = {"stage": "early", "cut": 3, "weight": 0.5}
    for name, heads in {"with": [head], "plain": None}.items():
        for seed in (0, 1):
            bench.made_run(tmp_path / "runs" / f"{name}{seed}", tree, name=name, seed=seed, epochs=4, heads=heads)
    found = write_report([tmp_path / "runs"], tmp_path / "report.html")
    assert [run.path.name for run in found.shown] == ["plain0", "with0"]
    text = found.path.read_text()
    body = re.findall(r"<tr>(.*?)</tr>", text)
    assert [re.findall("<td>(.*?)</td>", row)[:2] for row in body[1:3]] == [["plain", "flat"], ["with", "branches"]]
    assert "Paired differences" in text
    assert "No control" in text
    assert len(held(found.path)["sets"]) == 2  # the same images, once
    assert len(held(found.path, "charts-data")["overview"]) >= 5
