"""The training loop: one for flat and hierarchical runs."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.data import Batch, Data, DataSettings, Mixer, keyed_seed, make_loader
from hiercnn.dynamics import LiveDynamics, classifier_rows
from hiercnn.errors import CheckpointError, DataError, Interrupted, RecipeError, TrainingError, shorten
from hiercnn.hierarchy import Cut
from hiercnn.models import HierarchicalModel, checkpoint_gradients
from hiercnn.train._checkpoint import load_state, load_training_state, load_weights, save_state, save_weights
from hiercnn.train._display import QuietDisplay, make_display
from hiercnn.train._environment import describe_environment, pick_device, pick_precision
from hiercnn.train._evaluate import PredictionLog, evaluate
from hiercnn.train._freezer import Freezer
from hiercnn.train._optim import learning_rate, make_optimizer, make_scheduler
from hiercnn.train._profile import StepProfile
from hiercnn.train._run import RunFolder
from hiercnn.train._settings import RunSettings
from hiercnn.train._signals import StopRequest, stop_on_signals
from hiercnn.train._task import FlatTask
from hiercnn.train._trackers import make_trackers
from hiercnn.train._world import Parts, World


@dataclass
class Progress:
    """Where a run stands: plain values, saved with every checkpoint."""

    epoch: int = 0  # epochs done
    batch: int = 0  # batches done of the next one
    update: int = 0  # optimiser steps done
    images: int = 0
    best: float = -1.0
    best_epoch: int = 0
    events: int = 0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)  # of the loss terms of this epoch

    def __post_init__(self):
        for name, value in vars(self).items():
            kind = type(getattr(Progress, name, {}))
            if not isinstance(value, kind) or (kind is int and value < 0) or (kind is float and not isfinite(value)):
                raise ValueError(f"progress.{name} is {value!r}")
        if not all(isinstance(value, float) for value in self.sums.values()):
            raise ValueError(f"progress.sums is {self.sums!r}")


class Trainer:
    """Trains one model on one split of the data into one run folder.

    Args:
        model: Gives an `Output`.
        task: What is minimised.
        data: The prepared splits.
        cuts: The cuts whose accuracy is reported, coarse first.
        settings, data_settings: The recipe's sections.
        run: Where everything is written.
        recipe_text: The resolved recipe, as YAML.
        display: Who shows the progress; default: what `settings.logging` says.
        live: Measures dynamics at step 0 and in every evaluation, if it is there.
        profile: Whether to look at some batches with torch.profiler, into `profile/` of the run folder.
        world: The processes that train together; each computes its part of every batch, and the first one writes.
    """

    def __init__(
        self,
        *,
        model: HierarchicalModel,
        task: FlatTask,
        data: Data,
        cuts: Sequence[Cut],
        settings: RunSettings,
        data_settings: DataSettings,
        run: RunFolder,
        recipe_text: str,
        display: QuietDisplay | None = None,
        live: LiveDynamics | None = None,
        profile: bool = False,
        world: World | None = None,
    ):
        _check_model(model, data)
        if settings.train.grad_checkpointing:
            checkpoint_gradients(model.backbone)
        self.settings, self.run, self.data, self.cuts, self.live = settings, run, data, list(cuts), live
        self.recipe_text = recipe_text
        self.world = world or World()
        self.display = display or make_display(settings.logging.display if self.world.main else "quiet")
        self.trackers = make_trackers(settings.logging, settings.name, run.path, recipe_text) if self.world.main else []
        self.device = pick_device(settings.train.device) if self.world.size == 1 else self.world.device
        self.profile = StepProfile(run.path / "profile", self.device) if profile and self.world.main else None
        self.precision = pick_precision(settings.train.precision, self.device)
        if settings.train.sync_batchnorm and self.world.size > 1:
            model = _with_sync_batchnorm(model, self.device)
        layout = torch.channels_last if settings.train.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)
        self.task = task.to(self.device)
        self._make_loaders(data_settings)
        self.mixer = Mixer(data_settings.augment.mix) if data_settings.augment.mix else None
        self.updates_per_epoch = -(-len(self.train_loader) // settings.train.accumulate)
        self.optimizer = make_optimizer(self.model, settings.optim)
        self.freezer = Freezer(self.model, settings.train.freeze)
        self._wrap()
        self.scheduler = make_scheduler(self.optimizer, settings.schedule, settings.epochs, self.updates_per_epoch)
        self.ema = self._make_ema()
        self.progress = Progress()
        self._begun: dict[tuple[int, int], Iterator[Batch]] = {}  # epochs and batches from which a loader is on its way
        self._unchecked: list[tuple[int, Tensor, dict[str, Tensor]]] = []  # batch number, its indices, its terms

    # ---- the road --------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False) -> None:
        """Train to the end, from the start or from the last checkpoint; the caller holds the run folder's lock.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            TrainingError: The loss is not finite.
            CheckpointError: The run folder cannot be used or written.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), stop_on_signals(patient=self.world.size > 1) as stop:
            self._start(resume)
            try:
                while self.progress.epoch < self.settings.epochs:
                    self._train_epoch(stop)
                    self._finish_epoch()
                    self._obey(self.world.agreed(stop.signal))
                self._finish_run()
                if self.profile is not None:
                    self.display.note(self.profile.unfinished())
            except torch.OutOfMemoryError as error:
                self._run_out_of_memory(error)
            except RuntimeError as error:
                self._explain_compiler(error, stop)
                if "DataLoader worker" not in str(error):  # torch raises it wherever the main process is
                    raise
                raise DataError(
                    f"a process that reads images has ended ({str(error).splitlines()[0][:120]}); if memory was full, lower data.workers"
                    " or data.batch_size; what was saved is intact, --resume goes on"
                ) from error
            finally:
                self.display.end()
                for tracker in self.trackers:
                    tracker.end()

    def _start(self, resume: bool) -> None:
        state_file = self.run.checkpoints / "state.pt"
        begun = self.world.from_main(lambda: (state_file.exists(), self.run.exists() and len(self.run.metrics) > 1))
        environment = describe_environment(self.device, self.precision, self.settings.seed) | {"processes": self.world.size}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if resume and begun == (False, True):
            raise CheckpointError(f"cannot resume: {state_file} is gone, and starting anew would overwrite the run; use another folder")
        if resume and begun[0]:
            self._restore(self.world.from_main(lambda: load_training_state(state_file, self.data.hierarchy)))
            self._check_same_data()
            self.world.from_main(lambda: self._reopen(environment))
        else:
            self.world.from_main(lambda: self.run.create(self.recipe_text, environment, self.data.hierarchy, self.cuts))
            self._log({"event": "start", "epochs": self.settings.epochs, "steps_per_epoch": self.updates_per_epoch, **self._sizes()})
            if self.live is not None:
                if self.world.main:
                    self.live.begin()
                self._evaluate_both()
        for tracker in self.trackers:
            tracker.begin(self.progress.update)
        columns = ["epoch", "lr", "loss", *(f"val {name}" for name in self._levels()), "gap", "images/s", "seconds"]
        self.display.begin(self.settings.name, columns, self.settings.epochs, len(self.train_loader), self.progress.epoch)
        if resume and not self.progress.epoch and not self.progress.batch:
            self.display.note(f"nothing to resume in {self.run.path}: starting anew")
        if self.data.unreadable and not self.progress.events > 1:
            self.display.note(f"left out {len(self.data.unreadable)} unreadable images: {shorten(self.data.unreadable)}")

    def _reopen(self, environment: dict[str, object]) -> None:
        """Make the run folder what it was at the checkpoint."""
        self.run.keep_events(self.progress.events)
        self.run.note_resume(environment)
        self.run.restore_tree(self.data.hierarchy, self.cuts)

    def _train_epoch(self, stop: StopRequest) -> None:
        progress, accumulate = self.progress, self.settings.train.accumulate
        if progress.batch == 0:
            progress.sums = {}
            self._seed_draws()
            if progress.epoch == 0:
                self._keep_log_spaced()
        self.network.train()
        batches = len(self.train_loader)
        began = time.perf_counter()
        for batch in self._batches():
            parts = self.world.parts(batch.images)
            if self.freezer.set(progress.epoch, (2, *parts.shape)):
                self._wrap()
            first, more = progress.batch - progress.batch % accumulate, (progress.batch + 1) % accumulate and progress.batch + 1 < batches
            if sum(parts.counts):  # none is left where every image was unreadable
                self._backward(batch, parts, share=1 / min(accumulate, batches - first), more=bool(more))
            progress.batch += 1
            progress.images += sum(parts.counts)
            if more:
                continue
            with self._section("update"):
                self._update()
            signal = self.world.agreed(stop.signal)
            if signal is not None and progress.batch < batches:
                break
        self._check_losses()
        progress.train_seconds += time.perf_counter() - began
        if progress.batch < batches:
            self._obey(signal)

    def _batches(self) -> Iterator[Batch]:
        """Those of this epoch that are left."""
        at = (self.progress.epoch, self.progress.batch)
        batches = self._begun.pop(at, None) or self.train_loader.epoch(*at)
        while True:
            with self._section("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
            if self.profile is not None and (table := self.profile.next_batch()):
                self.profile = None
                self.display.note(table)

    def _section(self, name: str):
        """A part of a step, timed if a profile is wanted."""
        return contextlib.nullcontext() if self.profile is None else self.profile.section(name)

    def _backward(self, batch: Batch, parts: Parts, share: float, more: bool) -> None:
        """Add the gradient of a batch's loss, divided by the batches of an update; `more` of these follow."""
        images, labels, world = batch.images, batch.labels, self.world
        if self.mixer is not None:
            with self._section("data"):
                key = (self.progress.epoch, 5, self.progress.batch, *self._own_key)
                images, labels = self.mixer(images, labels, keyed_seed(self.settings.seed, *key))
        with self.data_parallel.no_sync() if more and world.size > 1 else contextlib.nullcontext():
            with self._section("forward"), self._autocast():
                output = world.scores(self.network, images, parts)
            labels, indices = world.joined_labels(labels, parts), world.joined_indices(batch.indices, parts)
            with self._section("loss"):
                loss, terms = self.task(output, labels, self.progress.epoch)
            detached = {name: term.detach() for name, term in {**terms, "loss": loss}.items()}
            self._unchecked.append((self.progress.batch, indices, detached))
            if self.device.type == "cpu" or len(self._unchecked) == 20:  # on a GPU each look at a value waits for it
                self._check_losses()
            with self._section("backward"):
                (loss * (share * world.size)).backward()  # DistributedDataParallel divides by their number

    def _update(self) -> None:
        progress, clip = self.progress, self.settings.optim.clip_norm
        self.scheduler.step_update(progress.update)
        if clip is not None:
            heads = [*self.model.heads.parameters(), *self.model.feeds.parameters()]
            for part in filter(len, (list(self.model.backbone.parameters()), heads)):
                nn.utils.clip_grad_norm_(part, clip)  # apart: what heads do must not clip the backbone of a twin
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.update += 1
        if self.ema is not None:
            self.ema.update(self.model, step=progress.update)
        if progress.epoch < 2:
            self._keep_log_spaced()

    def _finish_epoch(self) -> None:
        progress, settings = self.progress, self.settings
        progress.epoch, progress.batch = progress.epoch + 1, 0
        last = progress.epoch == settings.epochs
        if not last:
            self._begun = {(progress.epoch, 0): self.train_loader.epoch(progress.epoch)}  # its workers read while this one is evaluated
        if progress.epoch % settings.eval.every == 0 or last:
            self._evaluate_epoch(last)
        if progress.epoch in self._averaged_epochs():
            self._save_weights(_of_epoch(progress.epoch))
        self._save()

    def _evaluate_epoch(self, last: bool) -> None:
        progress, began = self.progress, time.perf_counter()
        predictions = PredictionLog(self.cuts, full=last) if self.settings.eval.predictions else None
        val, subset = self._evaluate_both(predictions)
        if predictions is not None:
            name = "val.npz" if last else f"val-epoch-{progress.epoch:04d}.npz"
            self._keep_predictions(predictions, name, self.data.val)
        progress.eval_seconds += time.perf_counter() - began
        if val["accuracy"]["leaf"] > progress.best:
            progress.best, progress.best_epoch = val["accuracy"]["leaf"], progress.epoch
            self._save_weights("best")
        batches = len(self.train_loader)
        unreadable = self._unreadable()
        if unreadable:
            self.display.note(f"left out so far: {len(unreadable)} unreadable images: {shorten(unreadable)}")
        event = {
            "event": "epoch",
            "epoch": progress.epoch,
            "step": progress.update,
            "images": progress.images,
            "lr": learning_rate(self.optimizer),
            "train": {name: total / batches for name, total in progress.sums.items()},
            "weights": self.task.weights(progress.epoch - 1),
            "val": val,
            "train_subset": subset,
            "unreadable": unreadable,
            "seconds": {"train": round(progress.train_seconds, 3), "eval": round(progress.eval_seconds, 3)},
        }
        self._log(event)
        self.display.epoch(self._row(event))

    def _evaluate_both(self, predictions: PredictionLog | None = None) -> tuple[dict[str, object], dict[str, object]]:
        """What the model is worth on val and on the subset of train; dynamics are measured on the way."""
        live, epoch = self.live, self.progress.epoch
        self.world.spread(self._evaluated())  # running statistics of batch norm are each process's own
        val = self._evaluate(self.val_loader, predictions, live and live.see_test)
        if val["images"] and not np.isfinite(val["nll"]):  # the epoch's last update broke the weights
            self._fail(f"the loss on val is {val['nll']} after epoch {epoch}", max(epoch - 1, 0))
        subset = self._evaluate(self.subset_loader, live and live.see_train, layers=live.layers if live else ())
        if live is not None and self.world.main:
            try:
                live.write(self.progress.update, classifier_rows(self._evaluated(), self.data.hierarchy.num_classes))
            except DataError as error:
                self.display.note(f"dynamics not measured after epoch {epoch}: {error}")
        return val, subset

    def _finish_run(self) -> None:
        settings, progress = self.settings, self.progress
        end = {"event": "end", "epochs": progress.epoch, "steps": progress.update, "images": progress.images}
        val = self.world.from_main(lambda: self.run.metrics[-1]["val"])
        end |= {"val": val, "best_epoch": progress.best_epoch, "best_val": progress.best}
        if settings.checkpoints.average is not None:
            end["average_val"] = self._average()
        if settings.eval.test and self.data.test is not None:
            self._load_weights(settings.eval.test_weights)
            predictions = PredictionLog(self.cuts, full=True) if settings.eval.predictions else None
            began = time.perf_counter()
            end["test"] = self._evaluate(self._loader(self.data.test), predictions)
            progress.eval_seconds += time.perf_counter() - began
            if predictions is not None:
                self._keep_predictions(predictions, "test.npz", self.data.test)
        end["seconds"] = {"train": round(progress.train_seconds, 3), "eval": round(progress.eval_seconds, 3)}
        if self.live is not None and self.world.main:
            self.live.end(self.updates_per_epoch)
        self._log(end | {"peak_memory_mib": self._peak_memory()})
        for epoch in self._averaged_epochs() if self.world.main else ():
            (self.run.checkpoints / f"{_of_epoch(epoch)}.safetensors").unlink(missing_ok=True)

    def _averaged_epochs(self) -> range:
        """The last epochs, whose weights are kept until the end and averaged then."""
        epochs = self.settings.epochs
        return range(epochs - (self.settings.checkpoints.average or 0) + 1, epochs + 1)

    def _average(self) -> dict[str, object]:
        """Write the mean of the last epochs' weights (and batch norm statistics), and return what it is worth on val."""
        model, began = self._evaluated(), time.perf_counter()
        total: dict[str, Tensor] = {}
        for epoch in self._averaged_epochs():
            self._load_weights(_of_epoch(epoch))
            for name, tensor in model.state_dict().items():
                total[name] = total[name] + tensor.double() if name in total else tensor.double()
        count = len(self._averaged_epochs())
        model.load_state_dict({name: (total[name] / count).to(tensor.dtype) for name, tensor in model.state_dict().items()})
        self._save_weights("average")
        value = self._evaluate(self.val_loader)
        self.progress.eval_seconds += time.perf_counter() - began
        return value

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _make_loaders(self, data_settings: DataSettings) -> None:
        self._loader_options = {
            "settings": data_settings,
            "channels": self.data.channels,
            "device": self.device,
            "channels_last": self.settings.train.channels_last,
            "part": (self.world.rank, self.world.size),
        }
        self.train_loader = make_loader(self.data.train, train=True, seed=self.settings.seed, **self._loader_options)
        self.val_loader = self._loader(self.data.val)
        leaves = np.flatnonzero(self.data.train.labels < self.data.hierarchy.num_classes)
        chosen = np.random.default_rng([self.settings.seed, 2]).permutation(leaves)[: self.settings.eval.train_subset]
        subset = self.data.train.subset(np.sort(chosen))
        if self.live is not None and (missing := set(range(self.data.hierarchy.num_classes)).difference(subset.labels.tolist())):
            raise DataError(
                f"dynamics need images of every class, and the {len(subset)} of train that are evaluated have none of"
                f" {shorten(self.data.hierarchy.classes[label] for label in sorted(missing))}; raise eval.train_subset, or drop dynamics"
            )
        self.subset_loader = self._loader(subset)

    def _unreadable(self) -> list[str]:
        """Ids of the images that the loaders had to leave out while training and validating."""
        found = {name for loader in (self.train_loader, self.subset_loader, self.val_loader) for name in getattr(loader, "unreadable", ())}
        return sorted(set().union(*self.world.every(found)))

    def _wrap(self) -> None:
        """Make the network that is called of the model: one that adds up gradients of all processes, compiled if that is wanted."""
        self.data_parallel = self.model
        if self.world.size > 1:  # it learns once which parameters need a gradient
            place = {"device_ids": [self.device]} if self.device.type == "cuda" else {}
            self.data_parallel = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=self._has_unused(), **place)
        self.network = torch.compile(self.data_parallel) if self.settings.train.compile else self.data_parallel

    def _has_unused(self) -> bool:
        """Whether some parameters get no gradient, which costs DistributedDataParallel a look at the graph in every step."""
        shape = _input_size(self.data, self._loader_options["settings"].image_size)
        if shape is None:
            return True
        output = self.model.eval()(torch.zeros(2, *shape, device=self.device))
        sum(scores.float().sum() for scores in (output.leaf, *output.heads.values())).backward()
        unused = any(parameter.requires_grad and parameter.grad is None for parameter in self.model.parameters())
        self.model.zero_grad(set_to_none=True)
        self.model.train()
        return unused

    @property
    def _own_key(self) -> tuple[int, ...]:
        """What tells the draws of this process from those of the first, which draws as one alone does."""
        return () if self.world.main else (self.world.rank,)

    def _seed_draws(self) -> None:
        """Seed what the model draws, dropout among it, in this epoch."""
        torch.manual_seed(keyed_seed(self.settings.seed, self.progress.epoch, 4, *self._own_key))

    def _keep_predictions(self, predictions: PredictionLog, name: str, split) -> None:
        if self.world.main:
            predictions.save(self.run.predictions / name, split.ids)

    def _loader(self, split):
        return make_loader(split, train=False, **self._loader_options)

    def _make_ema(self):
        if self.settings.train.ema is None:
            return None
        from timm.utils import ModelEmaV3

        return ModelEmaV3(self.model, decay=self.settings.train.ema, use_warmup=True)

    def _evaluated(self) -> nn.Module:
        """The model whose weights are evaluated and kept."""
        return self.model if self.ema is None else self.ema.module

    def _evaluate(self, loader, *collect, layers: Sequence[str] = ()) -> dict[str, object]:
        return evaluate(
            self._evaluated(),
            loader,
            self.cuts,
            self.data.hierarchy,
            heads=self.model.cuts,
            autocast=self._autocast,
            layers=layers,
            collect=[see for see in collect if see is not None and self.world.main],
            world=self.world,
        )

    def _autocast(self):
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _check_losses(self) -> None:
        """Add up the losses not yet looked at; raise TrainingError at the first that is not finite."""
        sums = self.progress.sums
        for number, indices, terms in self._unchecked:
            values = dict(zip(terms, torch.stack([term.float() for term in terms.values()]).tolist(), strict=True))
            if not np.isfinite(values["loss"]):
                self._unchecked.clear()
                self._fail_at(number, values["loss"], indices)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            self.display.step(number + 1, values["loss"])
        self._unchecked.clear()

    def _fail_at(self, number: int, value: float, indices: Tensor) -> None:
        step = self.progress.epoch * len(self.train_loader) + number + 1
        ids = self.train_loader.ids(indices)
        facts = {"batch": number + 1, "loss": str(value), "ids": ids}
        images = f"Its images: {shorten(ids, limit=16)}; all of them stand in the last line of {self.run.metrics_file}.\n"
        what = f"the loss is {value} at batch {step} (epoch {self.progress.epoch + 1}, batch {number + 1})"
        self._fail(what, self.progress.epoch, images, **facts)

    def _run_out_of_memory(self, error: torch.OutOfMemoryError) -> None:
        kept = self.run.checkpoints / "state.pt"
        good = f"{kept} is intact" if kept.exists() else "no checkpoint was saved yet"
        raise TrainingError(
            f"the memory of {self.device} is full ({str(error).splitlines()[0][:160]}); {good}.\n"
            "Lower data.batch_size and raise train.accumulate by as much, lower data.eval_batch_size or data.image_size,"
            " or try train.precision=bfloat16 or train.grad_checkpointing=true, in a new --run-dir."
        ) from error

    def _fail(self, what: str, epochs_done: int, images: str = "", **facts: object) -> None:
        if self.world.main:
            self.run.log({"event": "failed", "epoch": epochs_done + 1, "reason": what, **facts})
        kept = self.run.checkpoints / "state.pt"
        good = f"last good checkpoint: {kept}, after epoch {epochs_done}" if kept.exists() else "no checkpoint was saved yet"
        advice = "Try a lower optim.lr, optim.clip_norm=1, or train.precision=float32, in a new --run-dir."
        raise TrainingError(f"{what}; {good}.\n{images}{advice}")

    def _explain_compiler(self, error: RuntimeError, stop: StopRequest) -> None:
        """Say what ended the compilation, if it was that: Ctrl-C in a terminal goes to the C++ compiler too."""
        if not self.settings.train.compile:
            return
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        if not isinstance(error, TorchDynamoException):
            return
        intact = "what was saved is intact"
        if stop.signal is not None:
            said = f"stopped in epoch {self.progress.epoch + 1}, while the network was compiled; {intact}"
            raise Interrupted(f"{said}. Go on with the same command and --resume", stop.signal) from error
        reason = str(error).strip().splitlines()[0][:160]
        raise TrainingError(f"train.compile: this network cannot be compiled here ({reason}); set train.compile=false; {intact}") from error

    def _obey(self, signal: int | None) -> None:
        """Save and leave if somebody asked for it."""
        if signal is None or (self.progress.epoch == self.settings.epochs and not self.progress.batch):
            return
        self._save()
        self.world.every(None)  # nobody leaves before that, or torchrun would end the first while it saves
        done = f"epoch {self.progress.epoch + 1}, after {self.progress.batch} of {len(self.train_loader)} batches"
        raise Interrupted(f"stopped in {done}; everything is saved in {self.run.path}. Go on with the same command and --resume", signal)

    def _log(self, event: dict[str, object]) -> None:
        if self.world.main:
            self.run.log(event)
        self.progress.events += 1
        if event["event"] in ("epoch", "end"):
            for tracker in self.trackers:
                tracker(event if event["event"] == "epoch" else {"step": self.progress.update, "end": event})

    def _save(self) -> None:
        self._save_weights("last")
        if self.settings.checkpoints.keep == "log" and self.progress.batch == 0:
            self._save_weights(f"step-{self.progress.update:08d}")
        hierarchy = self.data.hierarchy
        state = {
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "rng": torch.get_rng_state(),
            "classes": list(hierarchy.classes),
            "hierarchy": hierarchy.digest,
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        if self.world.size > 1:
            state["draws"] = self.world.every((state["rng"], state.get("cuda_rng")))
        if self.world.main:
            save_state(self.run.checkpoints / "state.pt", state)

    def _restore(self, state: dict) -> None:
        source = self.run.checkpoints / "state.pt"
        try:
            self._take(state, source)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            raise CheckpointError(f"cannot go on from {source}, it is damaged ({what}); begin again in another folder") from error

    def _take(self, state: dict, source: Path) -> None:
        """Put the state of a training into model, optimiser, progress and generators."""
        load_state(source, self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            load_state(source, self.ema.module, state["ema"])
        self.progress = Progress(**state["progress"])
        draws = state.get("draws", [(state["rng"], state.get("cuda_rng"))])
        if len(draws) != self.world.size:  # other processes than before: nobody's draws go on
            self._seed_draws()
            return
        of_cpu, of_gpu = draws[self.world.rank]
        torch.set_rng_state(of_cpu)
        if self.device.type == "cuda" and of_gpu is not None:
            torch.cuda.set_rng_state(of_gpu, self.device)

    def _load_weights(self, name: str) -> None:
        """Put weights that were kept into the model that is evaluated."""
        if self.world.main:
            load_weights(self.run.checkpoints / f"{name}.safetensors", self._evaluated(), self.data.hierarchy)
        self.world.spread(self._evaluated())

    def _save_weights(self, name: str) -> None:
        if not self.world.main:
            return
        facts = {"epoch": self.progress.epoch, "step": self.progress.update, **self.train_loader.normalise.facts}
        save_weights(self.run.checkpoints / f"{name}.safetensors", self._evaluated(), self.data.hierarchy, **facts)

    def _keep_log_spaced(self) -> None:
        """With `keep: log`, keep the weights at updates 0, 1, 2, 4, 8, … of the first two epochs."""
        update = self.progress.update
        if self.settings.checkpoints.keep == "log" and (update & (update - 1)) == 0:
            self._check_losses()
            self._save_weights(f"step-{update:08d}")

    def _check_same_data(self) -> None:
        start = self.world.from_main(lambda: (self.run.events or [{}])[0])
        changed = [name for name, digest in start.get("digests", {}).items() if self._sizes()["digests"].get(name) != digest]
        if changed or "digests" not in start:
            what = f"the {' and '.join(changed)} images or labels have changed since it started" if changed else "metrics.jsonl is damaged"
            raise CheckpointError(f"cannot resume {self.run.path}: {what}; begin again in another folder")

    def _sizes(self) -> dict[str, object]:
        splits = {name: split for name in ("train", "val", "test") if (split := getattr(self.data, name)) is not None}
        return {
            "sizes": {name: len(split) for name, split in splits.items()},
            "digests": {name: split.digest for name, split in splits.items()},
            "unreadable": list(self.data.unreadable),
            **self.train_loader.normalise.facts,
            "classes": self.data.hierarchy.num_classes,
            "channels": self.data.channels,
            "input_size": _input_size(self.data, self._loader_options["settings"].image_size),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def _peak_memory(self) -> int | None:
        """The GPU's, in MiB; a process on a CPU may hold other runs as well, so it is not asked."""
        return torch.cuda.max_memory_allocated(self.device) // 2**20 if self.device.type == "cuda" else None

    def _levels(self) -> list[str]:
        return [cut.name for cut in self.cuts if cut.name != "leaf"] + ["leaf"]

    def _row(self, event: dict) -> list[str]:
        accuracy, seconds = event["val"]["accuracy"], event["seconds"]
        gap = event["train_subset"]["accuracy"]["leaf"] - accuracy["leaf"]
        speed = f"{event['images'] / max(seconds['train'], 1e-9):,.0f}"
        levels = [f"{100 * accuracy[name]:.1f}" for name in self._levels()]
        total = f"{seconds['train'] + seconds['eval']:.0f}"
        return [str(event["epoch"]), f"{event['lr']:.4g}", f"{event['train']['loss']:.3f}", *levels, f"{100 * gap:+.1f}", speed, total]


def _of_epoch(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _input_size(data: Data, side: int | None) -> list[int] | None:
    """[channels, H, W] of the images that the model gets; None where a Dataset gives them in sizes of its own."""
    if data.train.images is not None:
        return list(data.train.images.shape[1:])
    return None if side is None else [data.channels, side, side]


def _with_sync_batchnorm(model: HierarchicalModel, device: torch.device) -> HierarchicalModel:
    from timm.layers import convert_sync_batchnorm

    if device.type != "cuda":
        raise RecipeError("train.sync_batchnorm is for GPUs, torch has none for a CPU; leave it out, or take a net with group norm")
    return convert_sync_batchnorm(model)


def _check_model(model: HierarchicalModel, data: Data) -> None:
    if model.classes != data.hierarchy.classes:
        wrong = next((f"'{a}' and '{b}'" for a, b in zip(model.classes, data.hierarchy.classes, strict=False) if a != b), "their number")
        raise DataError(f"model and data number the classes differently, first at {wrong}; build the model with data.hierarchy")
