"""Batches of one epoch. Every random draw is keyed by seed, epoch and image, so paired runs see the same images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hiercnn.data._image_set import ImageSet
from hiercnn.data._prepare import check_unreadable, fitted, resampling
from hiercnn.data._settings import Augment, DataSettings
from hiercnn.errors import DataError, RecipeError, ShapeError, did_you_mean


class Batch(NamedTuple):
    """Normalised images [B, channels, H, W] float32, labels [B] int64 (both on the device) and indices [B] into the set (CPU)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


def keyed_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded by `keyed_seed(*parts)`."""
    return torch.Generator().manual_seed(keyed_seed(*parts))


def make_loader(
    image_set: ImageSet,
    settings: DataSettings,
    *,
    train: bool,
    channels: int,
    seed: int = 0,
    device="cpu",
    channels_last: bool = False,
    part: tuple[int, int] = (0, 1),
):
    """The right loader for a set: whole batches from memory where possible, single images through a DataLoader otherwise.

    `part` (number, of how many): of each batch only this part is given, one after the other without gap or overlap.
    """
    augment = settings.augment if train else Augment()
    options = {
        "batch_size": settings.batch_size if train else settings.eval_batch_size,
        "shuffle": train,
        "balance": settings.balance if train else 0.0,
        "seed": seed,
        "device": torch.device(device),
        "normalise": Normalise(settings.mean, settings.std, channels, device, channels_last),
        "part": part,
    }
    if image_set.images is not None and not augment.needs_single_images:
        return BatchLoader(image_set, augment, **options)
    return SampleLoader(image_set, augment, settings, **options)


class Normalise:
    """(x/255 − mean) / std for uint8 images; float images pass unchanged."""

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int, device, channels_last: bool):
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        mean, std = _per_channel(mean, IMAGENET_DEFAULT_MEAN, channels, "mean"), _per_channel(std, IMAGENET_DEFAULT_STD, channels, "std")
        self.facts = {"mean": mean, "std": std}  # what a user of the model has to know
        self.mean, self.std = (255 * torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in (mean, std))
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float().sub_(self.mean).div_(self.std)
        return images.float().contiguous(memory_format=self.layout)


def _per_channel(given: Sequence[float] | None, default: Sequence[float], channels: int, what: str) -> list[float]:
    values = given if given is not None else default if channels == len(default) else [float(np.mean(default))] * channels
    if len(values) != channels:
        raise ShapeError(f"data.{what}: wanted {channels} values, one a channel, got {len(values)}")
    return list(values)


class _Loader:
    """Order and batches of an epoch, crop and flip of a whole batch; the last, smaller batch is left out of shuffled epochs."""

    def __init__(
        self,
        image_set: ImageSet,
        augment: Augment,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        device: torch.device,
        normalise: Normalise,
        balance: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ):
        self.image_set, self.augment, self.batch_size, self.shuffle, self.seed = image_set, augment, batch_size, shuffle, seed
        self.device, self.normalise, self.balance, self.part = device, normalise, balance, part
        self.labels = torch.as_tensor(image_set.labels).to(device)

    def __len__(self) -> int:
        full, rest = divmod(len(self.image_set), self.batch_size)
        return full if self.shuffle and full else full + bool(rest)

    def batches(self, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Indices of its part of each batch, and the numbers of its draws: those of the images, or of the places if images repeat."""
        n = len(self.image_set)
        places = torch.arange(n)
        if self.balance:
            order = balanced_order(self.image_set.labels, self.balance, keyed_seed(self.seed, epoch, 1))
        else:
            order = torch.randperm(n, generator=generator(self.seed, epoch, 1)) if self.shuffle else places
        draws = places if self.balance else order
        number, parts = self.part
        own = ([batch.tensor_split(parts)[number] for batch in column.split(self.batch_size)] for column in (order, draws))
        return list(zip(*own, strict=True))[: len(self)]

    def augmentation(self, epoch: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Crop and flip of uint8 images [B, channels, H, W] by the numbers of their draws [B] in an epoch."""
        padding = self.augment.crop
        if not padding and not self.augment.flip:
            return lambda images, draws: images
        draw, n = generator(self.seed, epoch, 2), len(self.image_set)
        shifts = torch.randint(0, 2 * padding + 1, (n, 2), generator=draw).to(self.device)
        flips = ((torch.rand(n, generator=draw) < 0.5) & self.augment.flip).to(self.device)
        return lambda images, draws: shift_and_flip(images, shifts[draws.to(self.device)], flips[draws.to(self.device)], padding)

    def ids(self, indices: Tensor) -> list[str]:
        """What to call these images in a message."""
        return [self.image_set.ids[i] for i in indices.tolist()]


def balanced_order(labels: np.ndarray, balance: float, seed: int) -> Tensor:
    """As many images as there are, drawn with repetition: a label with probability ∝ count^(1 − balance), then one of its images."""
    rng = np.random.default_rng(seed)
    members = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    chances = counts ** (1.0 - balance)
    drawn = rng.choice(len(counts), len(labels), p=chances / chances.sum())
    first = np.cumsum(counts) - counts
    return torch.from_numpy(members[first[drawn] + rng.integers(counts[drawn])])


class BatchLoader(_Loader):
    """Images held as uint8 on the device."""

    def __init__(self, image_set: ImageSet, augment: Augment, **options):
        super().__init__(image_set, augment, **options)
        self.images = image_set.images.to(self.device)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on."""
        augmented = self.augmentation(epoch)
        for indices, draws in self.batches(epoch)[start:]:
            taken = indices.to(self.device)
            yield Batch(self.normalise(augmented(self.images[taken], draws)), self.labels[taken], indices)


def shift_and_flip(images: Tensor, shifts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Crop each image [B, channels, H, W] out of its zero-padded self at `shifts` [B, 2] (down, right) and mirror it where `flips` [B]."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    rows = shifts[:, :1] + torch.arange(height, device=images.device)  # [B, H]
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = shifts[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)  # [B, W]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class SampleLoader(_Loader):
    """Single images through torchvision.transforms.v2 in a DataLoader; unreadable ones are left out, named and counted.

    Crop and flip wait for the whole batch, unless other transforms of single images want to come after them.
    """

    def __init__(self, image_set: ImageSet, augment: Augment, settings: DataSettings, **options):
        alone = augment if augment.needs_single_images else Augment()
        super().__init__(image_set, Augment() if augment.needs_single_images else augment, **options)
        self.unreadable: dict[str, str] = {}
        self.max_unreadable = settings.max_unreadable
        samples = _Samples(image_set, _transform(alone, settings.image_size, settings.interpolation), self.seed)
        self._order = _Order()
        self._loader = torch.utils.data.DataLoader(
            samples,
            batch_sampler=self._order,
            num_workers=settings.workers,
            collate_fn=_collate,
            persistent_workers=settings.workers > 0,
            worker_init_fn=_ignore_interrupts,
            pin_memory=self.device.type == "cuda",
            generator=generator(self.seed),  # or each epoch would draw a number from the global one
        )

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; workers begin at once. One whose images are all unreadable comes empty."""
        self._order.epoch, self._order.batches = epoch, self.batches(epoch)[start:]
        return self._ready(iter(self._loader), self.augmentation(epoch))

    def _ready(self, samples: Iterator, augmented: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Batch]:
        for images, indices, draws, bad in samples:
            self._note(bad)
            images = images.to(self.device, non_blocking=True)
            if len(indices):
                images = self.normalise(augmented(images, draws) if images.dtype == torch.uint8 else images)
            yield Batch(images, self.labels[indices.to(self.device)], indices)

    def _note(self, bad: list[tuple[int, str]]) -> None:
        for index, reason in bad:
            self.unreadable[self.image_set.ids[index]] = reason
        if bad:
            check_unreadable(list(self.unreadable.items()), len(self.image_set), self.max_unreadable)


class _Order:
    """A batch sampler whose batches are set before each epoch: (epoch, draw, index) of every image."""

    epoch = 0
    batches: Sequence[tuple[Tensor, Tensor]] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch = self.epoch
        for indices, draws in self.batches:
            yield [(epoch, draw, index) for index, draw in zip(indices.tolist(), draws.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.batches)


class _Samples(torch.utils.data.Dataset):
    """(epoch, draw, index) → (index, draw, image or None, why there is none); the transform's draws are keyed by seed, epoch and draw."""

    def __init__(self, image_set: ImageSet, transform, seed: int):
        self.image_set, self.transform, self.seed = image_set, transform, seed

    def __getitem__(self, key: tuple[int, int, int]):
        epoch, draw, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(keyed_seed(self.seed, epoch, 3, draw))  # torch.manual_seed would seed CUDA too
            try:
                image = self.image_set.fetch(index)
            except DataError as error:
                return index, draw, None, str(error)
            ready = isinstance(image, Tensor) and image.is_floating_point()
            return index, draw, image if ready else self.transform(image), ""


def _collate(samples) -> tuple[Tensor, Tensor, Tensor, list[tuple[int, str]]]:
    good = [(index, draw, image) for index, draw, image, _ in samples if image is not None]
    bad = [(index, reason) for index, _, image, reason in samples if image is None]
    shapes = sorted({tuple(image.shape) for *_, image in good})
    if len(shapes) > 1:
        raise DataError(f"images of one batch have the shapes {shapes[0]} and {shapes[1]}; set data.image_size, give all the same channels")
    images = torch.stack([image for *_, image in good]) if good else torch.empty(0)
    indices, draws = (torch.tensor([sample[i] for sample in good], dtype=torch.int64) for i in (0, 1))
    return images, indices, draws, bad


def _transform(augment: Augment, size: int | None, interpolation: str | None):
    """From one image to a uint8 tensor: fit to size, and what augmentation there is of single images."""
    from torchvision.transforms import v2

    if not augment.needs_single_images:
        return _Fit(size, interpolation)
    if size is None and (augment.resized_crop is not None or augment.crop):
        raise DataError("data.augment: crop and resized_crop of single images need data.image_size")
    if augment.resized_crop is not None:
        steps = [v2.RandomResizedCrop(size, scale=augment.resized_crop, interpolation=resampling(interpolation), antialias=True)]
    else:
        steps = [] if size is None else [fitted(size, interpolation)]
    steps.append(v2.ToImage())
    if augment.crop:
        steps.append(v2.RandomCrop(size, padding=augment.crop))
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    steps += [named_transform(options) for options in augment.transforms]
    return v2.Compose([*steps, v2.ToDtype(torch.uint8, scale=True), v2.ToPureTensor()])


class _Fit:
    """An image as a uint8 tensor [channels, size, size], resized as storage `memory` does it (files by Pillow)."""

    def __init__(self, size: int | None, interpolation: str | None):
        self.fit = None if size is None else fitted(size, interpolation)

    def __call__(self, image) -> Tensor:
        from torchvision.transforms.v2.functional import pil_to_tensor

        image = image if self.fit is None else self.fit(image)
        return image if isinstance(image, Tensor) else pil_to_tensor(image)


def named_transform(options: Mapping[str, object]):
    """A transform of torchvision.transforms.v2 from `{name: …, option: …}`. Raises RecipeError for unknown names and options."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    name, options = options.get("name"), {key: value for key, value in options.items() if key != "name"}
    known = [n for n in dir(v2) if isinstance(getattr(v2, n), type) and issubclass(getattr(v2, n), v2.Transform)]
    if name not in known:
        raise RecipeError(f"no transform '{name}' in torchvision.transforms.v2{did_you_mean(str(name), known)}")
    try:
        transform = getattr(v2, name)(**options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name} does not take {options}: {error}") from error
    try:
        with torch.random.fork_rng(devices=[]):
            made = transform(tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8)))
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise RecipeError(f"{name} does not work on a single uint8 image: {str(error)[:120]}") from error
    if made.shape[0] != 3:
        raise RecipeError(f"{name} changes the number of channels; give it options that keep them")
    return transform


def _ignore_interrupts(worker: int) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
