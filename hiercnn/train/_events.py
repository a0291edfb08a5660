"""What the events of metrics.jsonl hold, as far as anybody reads it back."""

from collections.abc import Mapping

WHOLE = range(2**53)
NUMBER = int | float | None
MEASURED = {"accuracy": {"leaf": float, str: float}, "nll": float, "images": WHOLE, "heads": {str: float}, "hd1": float, "severity": NUMBER}
OPTIONAL = (
    "test",
    "heads",
    "hd1",
    "severity",
    "peak_memory_mib",
    "steps",
    "step",
    "best_epoch",
    "mean",
    "std",
    "lr",
    "parameters",
)  # not in every run
SECONDS = {"train": float, "eval": float}
SHAPES = {
    "start": {
        "epochs": WHOLE,
        "steps_per_epoch": range(1, 2**53),
        "sizes": {str: WHOLE},
        "digests": {str: str},
        "mean": [float],
        "std": [float],
        "channels": range(1, 2**16),
        "parameters": WHOLE,
    },
    "epoch": {
        "epoch": WHOLE,
        "step": WHOLE,
        "images": WHOLE,
        "lr": float,
        "val": MEASURED,
        "train_subset": MEASURED,
        "seconds": SECONDS,
    },
    "end": {
        "epochs": WHOLE,
        "steps": WHOLE,
        "images": WHOLE,
        "val": MEASURED,
        "test": MEASURED,
        "best_epoch": WHOLE,
        "seconds": SECONDS,
        "peak_memory_mib": NUMBER,
    },
}


def wrong_value(event: object) -> str | None:
    """Dotted path of the first value of an event that is not what it should be, or None; missing and unknown keys are not looked at."""
    if not isinstance(event, Mapping) or not isinstance(event.get("event"), str):
        return "event"
    return _wrong(event, SHAPES.get(event["event"], {}))


def missing_keys(event: Mapping[str, object], shape: Mapping | None = None) -> list[str]:
    """Dotted paths of what the event of a run always has, and this one lacks."""
    shape, found = SHAPES[event["event"]] if shape is None else shape, []
    for key, inner in shape.items():
        if key in event and isinstance(inner, dict):
            found += [f"{key}.{path}" for path in missing_keys(event[key], inner)]
        elif key not in (*event, str, *OPTIONAL):
            found.append(key)
    return found


def _wrong(value: object, shape: object, path: str = "") -> str | None:
    """A shape is a type, a range of whole numbers, a list of one shape, or shapes by key, where `str` stands for every other key."""
    if isinstance(shape, list):
        parts = [(str(at), each, shape[0]) for at, each in enumerate(value)] if isinstance(value, list) else None
    elif isinstance(shape, dict):
        parts = [(key, each, shape.get(key, shape.get(str))) for key, each in value.items()] if isinstance(value, Mapping) else None
    else:
        kind = int if isinstance(shape, range) else int | float if shape is float else shape
        fits = isinstance(value, kind) and not isinstance(value, bool) and (not isinstance(shape, range) or value in shape)
        parts = [] if fits else None
    if parts is None:
        return path
    found = (_wrong(each, its, f"{path}.{key}".lstrip(".")) for key, each, its in parts if its is not None)
    return next((place for place in found if place is not None), None)
