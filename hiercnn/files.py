"""Files that appear whole or not at all, and arrays that are read without running anything."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hiercnn.errors import CheckpointError, shorten


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a scratch path to write; on success it is fsynced and takes the place of `path`, on failure `path` stays as it was.

    Raises:
        CheckpointError: The disk is full or not writable; says that the old file is intact.
    """
    from safetensors import SafetensorError

    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.unlink(missing_ok=True)  # if it is a link, what it leads to is not ours to write
        yield scratch
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        error = error.__context__ if isinstance(error.__context__, OSError) else error  # what torch.save has run into
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        if "DataLoader worker" in str(error):  # has been killed just now; torch says so wherever the main process is
            raise
        kept = "; the file of before is intact" if path.exists() else ""
        raise CheckpointError(f"cannot write {path}: {error}{kept}. Free space or mend permissions and go on (train: --resume)") from error


def read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; pickles in it are refused. Raises CheckpointError if it is missing or damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # numpy, zipfile, zlib and tokenize raise a dozen kinds
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {str(error)[:120]})") from None
    if strange := [name for name, values in found.items() if not isinstance(values, np.ndarray)]:
        raise CheckpointError(f"{path} is damaged: {shorten(strange)} is no array")
    native = {name: values.dtype.newbyteorder("=") for name, values in found.items()}  # torch knows no other order of bytes
    return {name: values.astype(native[name], copy=False) for name, values in found.items()}
