"""Fixtures for all tests. A test that needs one skips without it and says what it waits for."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny nets: threads that wait for each other on a busy machine cost minutes

import pytest
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests send Ctrl-C, which shells switch off for what they start in the background

settings.register_profile("same", deadline=None, derandomize=True)  # the same examples every time; a busy machine is no failure
settings.register_profile("search", deadline=None)  # new ones: pytest --hypothesis-profile search
settings.load_profile("same")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder `shared` beside the repository: data sets in `data`, WordNet in `nltk_data` (what NLTK_DATA should say)."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the data sets in ../shared, beside the repository")
    return folder


@pytest.fixture(scope="session")
def wordnet(shared) -> None:
    """WordNet from `shared`, for this process."""
    import nltk

    nltk.data.path.insert(0, str(shared / "nltk_data"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Drawn images are kept for this test session only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIERCNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
