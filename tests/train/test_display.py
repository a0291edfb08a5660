"""What a person sees: live table, plain lines, or nothing."""

import pytest
from train.tiny import BRANCHES, tiny

from hiercnn import fit
from hiercnn.train import make_display


@pytest.fixture
def terminal(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "120", "TTY_COMPATIBLE": "1"}.items():
        monkeypatch.setenv(name, value)


def test_plain_prints_a_line_an_epoch(tmp_path, capsys):
    fit(tiny("logging.display=plain", BRANCHES), run_dir=tmp_path)
    reading, title, *epochs = capsys.readouterr().out.splitlines()
    assert reading == "reading the data: synthetic"
    assert title == "flat: 2 epochs of 5 steps"
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1", "epoch 2"]
    for column in ("lr 0.0", "loss ", "val 3 groups ", "val 9 groups ", "val leaf ", "gap ", "images/s ", "seconds "):
        assert column in epochs[0]


def test_quiet_prints_nothing(tmp_path, capsys):
    fit(tiny("logging.display=quiet"), run_dir=tmp_path)
    assert capsys.readouterr() == ("", "")


def test_live_draws_a_table_and_bars(terminal, tmp_path, capsys):
    fit(tiny("logging.display=live"), run_dir=tmp_path)
    out = capsys.readouterr().out
    assert "\x1b[" in out
    for text in ("flat", "val leaf", "all steps", "10/10", "5/5", "loss 3."):
        assert text in out


def test_live_keeps_the_last_rows(terminal, capsys):
    display = make_display("live")
    display.begin("title", ["epoch"], 20, 1)
    for epoch in range(20):
        display.epoch([f"row{epoch}"])
    display.note("a note")
    capsys.readouterr()
    display.end("the end")
    out = capsys.readouterr().out
    assert "…" in out
    assert "row19" in out
    assert "row7\n" not in out
    assert "the end" in out


def test_auto_is_plain_in_a_pipe_and_live_on_a_terminal(monkeypatch):
    assert type(make_display("auto")).__name__ == "PlainDisplay"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert type(make_display("auto")).__name__ == "LiveDisplay"


def test_plain_says_where_it_starts_from(capsys):
    display = make_display("plain")
    display.begin("title", ["epoch"], 4, 5, start=2)
    display.note("a note")
    display.end("the end")
    assert capsys.readouterr().out.splitlines() == ["title: 4 epochs of 5 steps, from epoch 3", "a note", "the end"]
