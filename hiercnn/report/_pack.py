"""Values as text that stands in a page: arrays as base64 in JSON, whole documents compressed."""

import base64
import gzip
import json

import numpy as np

KINDS = {"uint8": "u1", "uint16": "u2", "int32": "i4", "float32": "f4"}  # what page.js knows


def packed(values: np.ndarray, kind: str) -> dict[str, object]:
    """An array as `{kind, shape, data}`, little-endian."""
    values = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return {"kind": KINDS[kind], "shape": list(values.shape), "data": base64.b64encode(values.tobytes()).decode()}


def share(values: np.ndarray) -> dict[str, object]:
    """Shares 0..1 in steps of 1/254; 255 for NaN."""
    steps = np.where(np.isnan(values), 255, np.round(254 * np.nan_to_num(values).clip(0, 1)))
    return packed(steps, "uint8")


def compressed(text: str | bytes) -> str:
    """gzip in base64: letters that end no script, whatever the text holds; the same for the same text."""
    content = text.encode() if isinstance(text, str) else text
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def document(values: object) -> str:
    """Plain values and packed arrays, compressed JSON; numbers that are none become null."""
    return compressed(json.dumps(_finite(values), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape"))


def _finite(values: object) -> object:
    if isinstance(values, dict):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    if isinstance(values, np.generic):
        values = values.item()
    return None if isinstance(values, float) and not np.isfinite(values) else values
