"""What the events of metrics.jsonl hold, as far as anybody reads it back."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Whole = Annotated[int, Field(ge=0, lt=2**53)]


class _Values(BaseModel):
    """Values that must be what they say; others may stand beside them."""

    model_config = ConfigDict(extra="allow", strict=True)


class Accuracy(_Values):
    __pydantic_extra__: dict[str, float]
    leaf: float


class Measured(_Values):
    accuracy: Accuracy
    nll: float
    images: Whole
    heads: dict[str, float] = {}
    hd1: float | None = None
    severity: float | None = None


class Seconds(_Values):
    train: float
    eval: float


class Event(_Values):
    event: str


class Start(Event):
    epochs: Whole
    steps_per_epoch: Annotated[int, Field(ge=1, lt=2**53)]
    sizes: dict[str, Whole]
    digests: dict[str, str]
    mean: list[float] = []
    std: list[float] = []
    channels: Annotated[int, Field(ge=1, lt=2**16)]
    parameters: Whole


class Epoch(Event):
    epoch: Whole
    step: Whole
    images: Whole
    lr: float | None = None
    train: dict[str, float] = {}
    val: Measured
    train_subset: Measured
    seconds: Seconds


class End(Event):
    epochs: Whole
    images: Whole
    val: Measured
    test: Measured | None = None
    seconds: Seconds
    peak_memory_mib: float | None = None


EVENTS = {"start": Start, "epoch": Epoch, "end": End}


def wrong_value(event: object) -> str | None:
    """Dotted path of the first value of an event that is not what it should be, or None; missing and unknown keys are not looked at."""
    return next((path for path, kind in _faults(event) if kind != "missing"), None)


def missing_keys(event: object) -> list[str]:
    """Dotted paths of what the event of a run always has, and this one lacks."""
    return [path for path, kind in _faults(event) if kind == "missing"]


def _faults(event: Any) -> list[tuple[str, str]]:
    """Dotted path and kind of everything that is wrong."""
    name = event.get("event") if isinstance(event, dict) else None
    if not isinstance(name, str):
        return [("event", "type")]
    try:
        EVENTS.get(name, Event).model_validate(event)
    except ValidationError as error:
        return [(".".join(map(str, fault["loc"])), fault["type"]) for fault in error.errors()]
    return []
