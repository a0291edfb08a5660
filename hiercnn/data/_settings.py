"""The `data:` section of a recipe: what all data sets share."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from hiercnn.hierarchy import CutChoice
from hiercnn.settings import Settings

Count = Annotated[int, Field(ge=1)]


def _val(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value not in ("auto", "given") and not (number and (0 < value < 1 or (isinstance(value, int) and value >= 1))):
        raise ValueError("should be a share between 0 and 1, a whole number of images of each class, auto or given")
    return value


def _area(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("should be the least and the most share of the area, 0 < least <= most <= 1")
    return value


class Mix(Settings):
    """Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of training images, by timm; heads learn both labels too.

    Attributes:
        mixup, cutmix: α of the Beta(α, α) that the share of the first image is drawn from; 0 leaves that kind out.
        prob: How often images are mixed at all.
        switch_prob: How often by cutmix, if both are given.
        mode: One share a `batch`, a `pair` of images, or an image (`elem`).
    """

    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    prob: Annotated[float, Field(gt=0, le=1)] = 1.0
    switch_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    mode: Literal["batch", "pair", "elem"] = "batch"

    @model_validator(mode="after")
    def _mixes(self):
        if not self.mixup and not self.cutmix:
            raise ValueError("give mixup or cutmix a number above 0, such as mixup: 0.2")
        return self


class Augment(Settings):
    """Augmentation of training images.

    `crop`, `flip` and `mix` run on whole batches on the training device; the others run on single images in a DataLoader.

    Attributes:
        crop: Random crop after zero padding by this many pixels on each side.
        flip: Random horizontal flip.
        resized_crop: Share of the area [least, most] of a random resized crop (torchvision's RandomResizedCrop).
        transforms: Further transforms of torchvision.transforms.v2 by name, `{name: RandAugment, num_ops: 2}`.
        mix: See `Mix`.
    """

    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    resized_crop: Annotated[tuple[float, float], AfterValidator(_area)] | None = None
    transforms: list[dict[str, Any]] = Field(default_factory=list)
    mix: Mix | None = None

    @property
    def needs_single_images(self) -> bool:
        return self.resized_crop is not None or bool(self.transforms)


class LabelNoise(Settings):
    """Wrong labels, in train alone, to study what they do.

    Attributes:
        share: Share of the images of each class whose label becomes a wrong one.
        kind: `near` takes another class of the same group, `far` a class of another group, `uniform` any other class.
        cut: The groups that near and far speak of.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    kind: Literal["near", "far", "uniform"] = "uniform"
    cut: CutChoice | None = None

    @model_validator(mode="after")
    def _has_cut(self):
        if (self.cut is None) == (self.kind != "uniform"):
            raise ValueError("near and far noise need a cut, uniform noise takes none")
        return self


def _fine(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and (0 < value < 1 or (isinstance(value, int) and value >= 1))):
        raise ValueError("should be a share between 0 and 1, or a whole number of images of each class")
    return value


class CoarseLabels(Settings):
    """Partly coarse labels, in train alone: some images keep their class, the others are labelled with its group.

    Attributes:
        cut: The groups.
        fine: Share or number of images of each class that keep their label.
        drop: Leave the other images out instead: the control that learns from the fine labels only.
    """

    cut: CutChoice
    fine: Annotated[int | float, BeforeValidator(_fine)]
    drop: bool = False


class DataSettings(Settings):
    """What all data sets share; a data set's own options stand beside these.

    Attributes:
        name: A registered data set; its own options stand beside these.
        image_size: Side in pixels; None keeps the size of images that come in memory (files need it).
        interpolation: How images are resized to it, with antialiasing; by default bilinear, or as the pretrained weights want it.
        per_class: Training images kept of each class (a fixed subset by seed); None keeps all.
        imbalance: Images of the largest class ÷ images of the smallest: class i of C keeps imbalance^(−i/(C−1)) of its images, in the
            data set's class order (the exponential profile of Cui et al., CVPR 2019).
        label_noise, coarse_labels: See `LabelNoise`, `CoarseLabels`; both change training labels after val was carved.
        val: Share or number of images of each class carved from train (the data set's own val, if any, joins train before), `given` for the
            data set's own, or `auto`: its own if it has every class, else a carved share of 0.1.
        seed: Seed of val, per_class, label_noise and coarse_labels; None takes the run's.
        balance: Share of class balance in the draws of an epoch, which repeat images: a label comes up as often as
            (number of its images)^(1 − balance) says; 1 draws all labels alike (Kang et al., ICLR 2020). 0 shows every image once.
        batch_size, eval_batch_size: Images a step.
        augment: See `Augment`.
        storage: `memory` decodes once to uint8, `files` reads through a DataLoader, `auto` takes memory below 1 GiB.
        workers: Processes of the DataLoader, if there is one.
        mean, std: Per channel, on the scale 0..1; default ImageNet's (their mean for other numbers of channels).
        max_unreadable: Share of unreadable images that are skipped; more is an error.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    image_size: Annotated[int, Field(ge=2, le=8192)] | None = None
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = None
    per_class: Count | None = None
    imbalance: Annotated[float, Field(gt=1)] | None = None
    label_noise: LabelNoise | None = None
    coarse_labels: CoarseLabels | None = None
    val: Annotated[int | float | str, BeforeValidator(_val)] = "auto"
    seed: Annotated[int, Field(ge=0)] | None = None
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    batch_size: Count = 128
    eval_batch_size: Count = 500
    augment: Augment = Augment()
    storage: Literal["auto", "memory", "files"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    mean: list[float] | None = None
    std: list[Annotated[float, Field(gt=0)]] | None = None
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.01
