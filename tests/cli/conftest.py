"""The command line inside this process."""

import sys
from typing import NamedTuple

import pytest
from train.tiny import tiny

from hiercnn.recipe import to_yaml


class Result(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `hiercnn` with arguments."""
    from hiercnn.cli import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments) -> Result:
        monkeypatch.setattr(sys, "argv", ["hiercnn", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def recipe_file(tmp_path):
    """Write a tiny recipe with overrides and return its path."""

    def write(*overrides: str, name: str = "recipe.yaml"):
        (tmp_path / name).write_text(to_yaml(tiny("logging.display=plain", *overrides)))
        return tmp_path / name

    return write
