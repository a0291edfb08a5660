"""The images of a run, as they were when it was trained."""

from hiercnn.data import Data, Source
from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.recipe._build import PYTHON, build_data, build_source
from hiercnn.recipe._fit import Run


def data_of_run(run: Run, instead: str) -> tuple[Data, Source]:
    """The splits of a run, and the source they are made of.

    Args:
        instead: What to do where the images were objects, for the message.

    Raises:
        RecipeError: Images that were objects. CheckpointError: images or labels that have changed since. DataError: none there.
    """
    if run.recipe.data.name == PYTHON:
        raise RecipeError(f"the images of {run.path} were objects; {instead}")
    source = build_source(run.recipe)
    data = build_data(run.recipe, source, run.hierarchy)
    digests = {name: split.digest for name in ("train", "val", "test") if (split := getattr(data, name)) is not None}
    changed = [name for name, digest in run.start["digests"].items() if digests.get(name) != digest]
    if changed:
        raise CheckpointError(f"the {' and '.join(changed)} images or labels of {run.path} have changed since it began")
    return data, source
