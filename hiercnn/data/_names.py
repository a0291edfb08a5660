"""Names and files of a million images without an object for each: nothing that grows, or that a DataLoader's workers copy."""

import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hiercnn.errors import shorten

ENCODING = ("utf-8", "surrogateescape")  # file names need not be UTF-8


class Names(Sequence[str]):
    """Texts in one block of UTF-8; a selection shares it and costs eight bytes a text.

    Args:
        block: The texts [m], one after another.
        ends: Where each begins, and where the last ends, in the block [m + 1], int64.
        rows: Which of them are meant [n], int64.
    """

    def __init__(self, block: bytes, ends: np.ndarray, rows: np.ndarray):
        self.block, self.ends, self.rows = block, ends, rows

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Names":
        """Copy any texts."""
        block, ends = bytearray(), array("q", [0])
        for text in texts:
            block += text.encode(*ENCODING)
            ends.append(len(block))
        return cls(bytes(block), np.array(ends), np.arange(len(ends) - 1))

    def take(self, indices: np.ndarray | slice) -> "Names":
        """These texts, in this order."""
        return Names(self.block, self.ends, self.rows[indices])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return self.take(index)
        row = self.rows[index]
        return self._text(self.ends[row], self.ends[row + 1])

    def __iter__(self) -> Iterator[str]:
        return map(self._text, self.ends[self.rows].tolist(), self.ends[self.rows + 1].tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None

    def __repr__(self) -> str:
        return f"Names({shorten(self)})"

    def _text(self, start: int, stop: int) -> str:
        return self.block[start:stop].decode(*ENCODING)


class Files(Sequence[Path]):
    """`root / name` for every name."""

    def __init__(self, root: Path, names: Sequence[str]):
        self.root, self.names = root, names

    def take(self, indices: np.ndarray) -> "Files":
        """These files, in this order."""
        return Files(self.root, take(self.names, indices))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.root / self.names[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None


def take(texts: Sequence, indices: np.ndarray) -> Sequence:
    """A selection of any sequence, in this order, by its own `take` if it has one."""
    return texts.take(indices) if hasattr(texts, "take") else [texts[i] for i in indices.tolist()]


def joined(a: Sequence, b: Sequence) -> Sequence:
    """Both, one after the other."""
    if isinstance(a, Files) and isinstance(b, Files) and a.root == b.root:
        return Files(a.root, joined(a.names, b.names))
    if not (isinstance(a, Names) and isinstance(b, Names)):
        return [*a, *b]
    if a.ends is b.ends:
        return Names(a.block, a.ends, np.concatenate([a.rows, b.rows]))
    ends = np.concatenate([a.ends, b.ends[1:] + len(a.block)])
    return Names(a.block + b.block, ends, np.concatenate([a.rows, b.rows + len(a.ends) - 1]))
