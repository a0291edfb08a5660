"""The house rules that no single module can break unseen: imports go down only, and importing is free."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_go_down_only():
    pytest.importorskip("importlinter", reason="needs import-linter (pip install hiercnn[dev])")
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"], cwd=ROOT, capture_output=True, text=True
    )
    assert "1 kept, 0 broken" in run.stdout, run.stdout + run.stderr


def test_every_package_is_in_the_contract():
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    packages = {p.name for p in (ROOT / "hiercnn").iterdir() if (p / "__init__.py").exists()}
    assert packages == {p for p in packages if f"hiercnn.{p}" in contract}


def test_importing_is_free():
    code = (
        "import os, sys, warnings; warnings.simplefilter('error'); before = dict(os.environ); import hiercnn;"
        "heavy = {'torch', 'timm', 'nltk', 'triton', 'numpy', 'rich', 'pydantic'} & set(sys.modules);"
        "print(sorted(heavy), dict(os.environ) == before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] True"


@pytest.mark.long
def test_importing_every_public_package_sets_no_seed_and_loads_no_heavy_package():
    code = (
        "import sys, torch; s = torch.get_rng_state();"
        "import hiercnn.hierarchy, hiercnn.ops, hiercnn.models, hiercnn.data, hiercnn.losses, hiercnn.metrics, hiercnn.train;"
        "import hiercnn.dynamics, hiercnn.diagnose, hiercnn.inference, hiercnn.recipe, hiercnn.compare, hiercnn.report;"
        "heavy = {'timm', 'nltk', 'triton', 'torchvision', 'scipy', 'plotly', 'kaleido', 'choreographer', 'optuna'} & set(sys.modules);"
        "print(sorted(heavy), torch.equal(s, torch.get_rng_state()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] True"


def test_public_names_are_reached_lazily():
    import hiercnn

    assert {name for name in hiercnn.__all__ if getattr(hiercnn, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hiercnn.nothing
