"""`hiercnn dynamics`."""

import pytest
from train.tiny import tiny

from hiercnn import fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tiny("checkpoints.keep=log", "epochs=1"), run_dir=tmp_path_factory.mktemp("dynamics") / "run")


@pytest.mark.long
def test_a_row_a_moment_and_pages_of_figures(command, run, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "nowhere")
    options = ("--images", 72, "--random", 2, "--no-probes")
    code, out, err = command("dynamics", run.path, *options, "--figures", tmp_path / "figures")
    assert (code, err) == (0, "")
    steps = [line.split("│")[2].strip() for line in out.splitlines() if line.startswith("│")]
    assert steps == ["0", "1", "2", "4", "5"]
    assert "dynamics.csv, times.csv, means.npz" in out
    assert (tmp_path / "figures" / "accuracy.html").exists()
    assert "svg and png need Chrome or Chromium" in out


def test_ctrl_c_says_that_the_same_command_goes_on(command, run, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hiercnn.cli._dynamics.dynamics_of_run", stop)
    code, _, err = command("dynamics", run.path)
    assert code == 130
    assert "moments measured so far are kept, and the same command goes on" in err


def test_a_run_that_was_measured_live(command, tmp_path):
    fit(tiny("epochs=1", "dynamics={random: 0}"), run_dir=tmp_path / "run")
    code, out, _ = command("dynamics", tmp_path / "run")
    assert code == 0
    assert "accuracy on val in %" in out
    assert "measured while the run was trained" in out
    assert "nan" not in out


def test_a_run_that_kept_nothing(command, tmp_path):
    fit(tiny("epochs=1"), run_dir=tmp_path / "run")
    code, _, err = command("dynamics", tmp_path / "run")
    assert code == 2
    assert "Train it with checkpoints.keep=log" in err
    assert "Traceback" not in err


def test_a_folder_for_figures_that_cannot_be_is_told_first(command, run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command("dynamics", run.path, "--figures", tmp_path / "file" / "figures")
    assert code == 2
    assert "cannot make the folder" in err
