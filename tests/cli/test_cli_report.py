"""`hiercnn report`, of a run that was trained."""

import pytest
from train.tiny import BRANCHES, tiny

from hiercnn import fit


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fit(tiny("epochs=2", "dynamics={random: 2}"), run_dir=folder / "runs" / "flat")
    fit(tiny(BRANCHES, "name=branches", "epochs=2"), run_dir=folder / "runs" / "branches")
    return folder / "runs"


@pytest.mark.long
def test_a_page_of_several_runs(command, runs, tmp_path):
    code, out, err = command("report", runs, "--out", tmp_path / "report.html", "--images", 72)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["branches: predictions and responses", "flat: predictions and responses"]
    assert out.splitlines()[-1].startswith(f"written to {tmp_path / 'report.html'}, ")
    text = (tmp_path / "report.html").read_text()
    assert "branches stands beside flat at the leaf" in text
    assert "Val accuracy" not in text  # compressed, as all figures


@pytest.mark.long
def test_figures_and_quiet(command, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "nowhere")
    out = tmp_path / "report.html"
    assert command("report", runs / "flat", "--out", out, "--figures", tmp_path / "figures", "--quiet", "--images", 0) == (0, "", "")
    assert {"gap-by-level.csv", "flat-confusion.csv", "flat-accuracy.csv"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    code, printed, _ = command("report", runs / "flat", "--out", out, "--figures", tmp_path / "figures", "--images", 0)
    assert code == 0
    assert "files of figures" in printed
    assert "svg and png need Chrome or Chromium" in printed


def test_no_run_there(command, tmp_path):
    code, _, err = command("report", tmp_path, "--out", tmp_path / "report.html")
    assert code == 2
    assert f"hiercnn: no run in {tmp_path}; give run folders" in err
    assert "Traceback" not in err


def test_a_file_that_is_no_report(command, runs, tmp_path):
    (tmp_path / "thesis.html").write_text("mine")
    code, _, err = command("report", runs / "flat", "--out", tmp_path / "thesis.html")
    assert code == 2
    assert "exists and is no report; name another file with --out" in err
