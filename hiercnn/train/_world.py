"""The processes that train one network together, as torchrun starts them; without torchrun one process alone.

Every process computes its part of each batch, and scores are gathered: loss and metrics see the whole batch, in its order, in every
process, so that all know the same, and only the first writes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hiercnn.errors import HierCNNError, RecipeError, TrainingError
from hiercnn.models import Output
from hiercnn.ops import Mixed

TIMEOUT = timedelta(minutes=10)  # for a process that hangs; one that dies is noticed at once
START = timedelta(seconds=50)  # for the others to come, where it is not torchrun that has started them


class Parts(NamedTuple):
    """How a batch is divided: `counts` of images of each process, and the `shape` of an image."""

    counts: list[int]
    shape: tuple[int, ...]


class World:
    """Rank and number of the processes, and what they do together; with one process nothing is sent.

    Args:
        rank: Of this process. size: How many there are.
        device: Where tensors are that are sent: NCCL's must be on the GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu"):
        self.rank, self.size, self.device = rank, size, torch.device(device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def parts(self, images: Tensor) -> Parts:
        """How the batch is divided of which this process has `images` [b, …]; a process may have none."""
        if self.size == 1:
            return Parts([len(images)], tuple(images.shape[1:]))
        own = [len(images), *(images.shape[1:] if len(images) else ())]
        sent = torch.zeros(8, dtype=torch.int64, device=self.device)
        sent[: len(own)] = torch.tensor(own)
        rows = [row.tolist() for row in self._gathered(sent)]
        shape = next((row[1:] for row in rows if row[0]), [])
        return Parts([row[0] for row in rows], tuple(extent for extent in shape if extent))

    def scores(self, network: nn.Module, images: Tensor, parts: Parts, *more: object) -> Output:
        """The network's output for the whole batch; gradients flow into this process's part alone."""
        if self.size == 1:
            return network(images, *more)
        if len(images):
            own = network(images, *more)
        else:  # what is collective in the network must happen here as well
            own = _map(network(images.new_zeros(1, *parts.shape, device=self.device), *more), lambda tensor: tensor[:0])
        return _map(own, lambda tensor: self.joined(tensor, parts))

    def joined(self, own: Tensor, parts: Parts) -> Tensor:
        """The rows of all processes in order, of which these [b, …] are this one's."""
        if self.size == 1:
            return own
        sent = own.new_zeros(max(parts.counts), *own.shape[1:])
        sent[: len(own)] = own.detach()
        found = [rows[:count] for rows, count in zip(self._gathered(sent), parts.counts, strict=True)]
        found[self.rank] = own
        return torch.cat(found)

    def joined_indices(self, own: Tensor, parts: Parts) -> Tensor:
        """The same of indices, which are on the CPU."""
        return self.joined(own.to(self.device), parts).cpu() if self.size > 1 else own

    def joined_labels(self, own: Tensor | Mixed, parts: Parts) -> Tensor | Mixed:
        """The same of labels."""
        return Mixed(*(self.joined(column, parts) for column in own)) if isinstance(own, Mixed) else self.joined(own, parts)

    def agreed(self, signal: int | None) -> int | None:
        """The signal that any of the processes has got."""
        if self.size == 1:
            return signal
        found = torch.tensor(signal or 0, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found) or None

    def from_main(self, function: Callable[[], Any]) -> Any:
        """What a function returns in the first process, which alone calls it; its errors are raised in all."""
        if self.size == 1:
            return function()
        answer: list[Any] = [None, None]
        if self.main:
            try:
                answer = [function(), None]
            except HierCNNError as error:
                answer = [None, error]
        dist.broadcast_object_list(answer, src=0, device=self.device)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def every(self, value: Any) -> list[Any]:
        """The values of all processes, in order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def spread(self, model: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first one's model."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """Tensors of one shape, as bytes: gloo does not know every type."""
        sent = own.contiguous().view(torch.uint8) if own.ndim else own
        found = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent)
        return [each.view(own.dtype) for each in found]


def _map(output: Output, change: Callable[[Tensor], Tensor]) -> Output:
    """An output with all its tensors changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(tensor) for name, tensor in value.items()}
        return None if value is None else change(value)

    return Output(**{field.name: changed(getattr(output, field.name)) for field in fields(output)})


@contextmanager
def together(device: str = "auto") -> Iterator[World]:
    """The world of this process: that of torchrun's environment variables, else itself alone.

    Args:
        device: `train.device` of the recipe: on GPUs each process of a machine takes its own.

    Raises:
        RecipeError: torchrun started more processes on this machine than there are GPUs, or its variables make no sense.
        TrainingError: Another process has ended, or has not come.
    """
    size = world_size()
    if size == 1 or not dist.is_available():
        yield World()
        return
    ours = not dist.is_initialized()
    if ours:
        _check_variables(size)
    place = own_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if ours:
        _meet("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise TrainingError(
            f"process {dist.get_rank()} of {size} cannot go on: another one has ended or cannot be reached; its own message says why."
            f" Start all again with --resume ({str(error).splitlines()[0][:160]})"
        ) from error
    finally:
        if ours:
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Begin to talk to the other processes. Raises TrainingError if they cannot be found."""
    at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT if by_torchrun else START))
        store.set_timeout(TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise TrainingError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot meet the others at {at}: the port is taken, or one of them"
            f" has not come; start all of them with torchrun, or unset WORLD_SIZE to train in one ({str(error).splitlines()[0][:160]})"
        ) from error


def _check_variables(size: int) -> None:
    """Raise RecipeError unless what torchrun sets is there and makes sense."""
    rank, port = _whole("RANK", None), _whole("MASTER_PORT", None)
    if not 0 <= rank < size:
        raise _of_torchrun(f"RANK is {rank}, of WORLD_SIZE {size}")
    if not 0 < port < 2**16:
        raise _of_torchrun(f"MASTER_PORT is {port}")
    if not os.environ.get("MASTER_ADDR"):
        raise _of_torchrun("MASTER_ADDR is not set")


def _whole(name: str, default: int | None) -> int:
    """A whole number of torchrun's environment variables."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise _of_torchrun(f"{name} is not set")
    if not (text.isascii() and text.isdecimal()):
        raise _of_torchrun(f"{name} is no whole number: '{text[:40]}'")
    return int(text)


def _of_torchrun(what: str) -> RecipeError:
    return RecipeError(f"environment variables of torchrun: {what}; start with torchrun, or unset WORLD_SIZE to train in one process")


def world_size() -> int:
    """How many processes torchrun has started; 1 without it. Raises RecipeError if WORLD_SIZE is no such number."""
    if (size := _whole("WORLD_SIZE", 1)) < 1:
        raise _of_torchrun(f"WORLD_SIZE is {size}")
    return size


def process_number() -> int:
    """Which of torchrun's processes this is; 0 without it."""
    return _whole("RANK", 0) if world_size() > 1 else 0


def own_device(device: str) -> torch.device:
    """The device of this process, where torchrun started several: GPU number LOCAL_RANK, or the CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local = _whole("LOCAL_RANK", 0)
    if local >= torch.cuda.device_count():
        raise RecipeError(
            f"torchrun started process {local} on this machine, which has {torch.cuda.device_count()} GPUs;"
            " take --nproc-per-node of that number, or train.device=cpu"
        )
    return torch.device("cuda", local)


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error is torch.distributed's about another process."""
    known = ("gloo", "Connection closed", "Connection reset", "NCCL", "Timed out waiting", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in known)
