"""The sections of a recipe that training reads."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from hiercnn.settings import Settings

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class OptimSettings(Settings):
    """The optimiser.

    Attributes:
        name: An optimiser of timm (`sgd` is Nesterov's; `momentum`, `adamw`, …).
        lr, momentum, weight_decay: As timm uses them; biases, norms and what the backbone exempts are not decayed.
        head_lr: Learning rate of the hypernym heads; None takes `lr`. Schedules scale it alike.
        layer_decay: Factor of the backbone's learning rate from each layer to the one below, by timm's grouping; the classifier has `lr`.
        clip_norm: Largest gradient norm of the backbone, and of the heads; or None.
        options: Further arguments of the optimiser.
    """

    name: str = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    head_lr: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    clip_norm: Positive | None = None
    options: dict[str, Any] = {}


class ScheduleSettings(Settings):
    """The learning rate's schedule.

    Attributes:
        name: `constant`, or a schedule of timm (`cosine`, `step`, `multistep`, `poly`, `tanh`).
        warmup_epochs: Epochs of linear warm-up from `warmup_lr`, inside `epochs`.
        min_lr: Where decaying schedules end.
        options: Further arguments of timm's create_scheduler_v2, such as `decay_milestones` or `decay_rate`.
    """

    name: Literal["constant", "cosine", "step", "multistep", "poly", "tanh"] = "cosine"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    warmup_lr: NotNegative = 1e-4
    min_lr: NotNegative = 0.0
    options: dict[str, Any] = {}


def _stage(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("should be a stage (a number, early, middle, late), all, none, or {steps: {epoch: stage}}")
    return value


Stage = Annotated[int | str, BeforeValidator(_stage)]


class FreezeSteps(Settings):
    """`{steps: {0: late, 2: early, 4: none}}`: up to which stage the backbone keeps still, from that epoch (0-based) on."""

    steps: Annotated[dict[Annotated[int, Field(ge=0)], Stage], Field(min_length=1)]


def _stage_or_steps(value: object) -> str:
    return "steps" if isinstance(value, dict | FreezeSteps) else "stage"


Freeze = Annotated[
    Annotated[Stage, Tag("stage")] | Annotated[FreezeSteps, Tag("steps")],
    Discriminator(_stage_or_steps),
]


def frozen_stages(freeze: int | str | FreezeSteps | None) -> dict[int, int | str]:
    """{epoch: the stage up to which the backbone is frozen from it on, or `none`}."""
    return freeze.steps if isinstance(freeze, FreezeSteps) else {} if freeze is None else {0: freeze}


def frozen_stage(freeze: int | str | FreezeSteps | None, epoch: int) -> int | str:
    """The stage up to which the backbone is frozen in a 0-based epoch, or `none`."""
    steps = frozen_stages(freeze)
    return steps[max(begun)] if (begun := [start for start in steps if start <= epoch]) else "none"


class TrainSettings(Settings):
    """How the model is trained.

    Attributes:
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`.
        precision: `bfloat16` autocast, `float32`, or `auto`: bfloat16 where the device has instructions for it.
        channels_last: Memory layout of images and weights.
        accumulate: Batches whose gradients are averaged into one optimiser step.
        compile: Whether training steps run through torch.compile; evaluation, of batches of other sizes, does not.
        ema: Decay of the moving average of the weights that is evaluated; None evaluates the weights themselves.
        freeze: The stage up to which the backbone keeps still, batch norm's statistics too: an index, early, middle, late, or `all` (all
            but the classifier); or {steps: {0: late, 2: early, 4: none}} to let it go stage by stage. Heads learn in any case.
        grad_checkpointing: Compute activations again in the backward pass rather than keep them, where timm's model can.
        sync_batchnorm: With several processes on GPUs: batch norm sees the batch of all of them, not each process its part.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    channels_last: bool = True
    accumulate: Count = 1
    compile: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    freeze: Freeze | None = None
    grad_checkpointing: bool = False
    sync_batchnorm: bool = False


class EvalSettings(Settings):
    """When and on what the model is evaluated.

    Attributes:
        every: Epochs between evaluations; the last epoch is always evaluated.
        train_subset: Training images of a fixed, unaugmented subset for the train–val gap.
        test: Whether to read the test split once, after the last epoch.
        test_weights: Weights of the test: `last`, `best` by val, or `average` (see `checkpoints.average`).
        predictions: Whether to write the `predictions/` folder.
    """

    every: Count = 1
    train_subset: Count = 1000
    test: bool = True
    test_weights: Literal["last", "best", "average"] = "last"
    predictions: bool = True


class CheckpointSettings(Settings):
    """Which weights are kept.

    Attributes:
        keep: `last+best`, or `log`: also the weights at log-spaced steps of the first two epochs and after each epoch.
        average: Number of last epochs whose weights are averaged into `average.safetensors`, which is evaluated on val; None averages none.
    """

    keep: Literal["last+best", "log"] = "last+best"
    average: Annotated[int, Field(ge=2)] | None = None


class LoggingSettings(Settings):
    """What is shown.

    Attributes:
        display: `live` table, `plain` lines, `quiet`, or `auto`: live on a terminal, else plain.
        tensorboard: Also write the numbers to `tensorboard/` in the run folder.
        wandb: Also log to Weights & Biases: `offline` (into the run folder) or `online`.
    """

    display: Literal["auto", "live", "plain", "quiet"] = "auto"
    tensorboard: bool = False
    wandb: Literal["offline", "online"] | None = None


class LinearRange(Settings):
    """From `start` to `end`, evenly over epochs 0..`epochs`, then constant."""

    start: NotNegative
    end: NotNegative
    epochs: Count


class Linear(Settings):
    """`{linear: {start: 1, end: 0, epochs: 10}}`"""

    linear: LinearRange


class Steps(Settings):
    """`{steps: {0: 0.98, 9: 0.1, 29: 0}}`: the value from that epoch (0-based) on."""

    steps: dict[Annotated[int, Field(ge=0)], NotNegative]

    @model_validator(mode="after")
    def _starts_at_zero(self):
        if 0 not in self.steps:
            raise ValueError("needs a value from epoch 0 on")
        return self


def _weight_kind(value: object) -> str:
    keys = value if isinstance(value, dict) else ()
    return (
        "linear" if isinstance(value, Linear) or "linear" in keys else "steps" if isinstance(value, Steps) or "steps" in keys else "number"
    )


def _plain_weight(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError("should be a number from 0 on, {linear: {start, end, epochs}} or {steps: {epoch: value}}")
    return value


Weight = Annotated[
    Annotated[NotNegative, BeforeValidator(_plain_weight), Tag("number")]
    | Annotated[Linear, Tag("linear")]
    | Annotated[Steps, Tag("steps")],
    Discriminator(_weight_kind),
]


def weight_at(weight: float | Linear | Steps, epoch: int) -> float:
    """Value of a loss weight in a 0-based epoch."""
    if isinstance(weight, Linear):
        line = weight.linear
        return line.start + (line.end - line.start) * min(epoch / line.epochs, 1.0)
    if isinstance(weight, Steps):
        return weight.steps[max(start for start in weight.steps if start <= epoch)]
    return float(weight)


class RunSettings(Settings):
    """Everything the training loop reads; a recipe is this plus data, hierarchy, model and loss."""

    name: Annotated[str, Field(min_length=1, pattern=r"^\w[\w.+-]*$")] = "run"
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    epochs: Count = 10
    optim: OptimSettings = OptimSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LoggingSettings = LoggingSettings()
