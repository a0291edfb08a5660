"""The data sets a recipe can name. A factory takes keyword options and returns a `Source`."""

import os
from pathlib import Path

from hiercnn.registry import Registry

data_sets = Registry("data set")


def cache_folder() -> Path:
    """Where generated data are kept: $HIERCNN_CACHE, or ~/.cache/hiercnn."""
    return Path(os.environ.get("HIERCNN_CACHE") or Path.home() / ".cache" / "hiercnn")
