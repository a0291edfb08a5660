"""One pass over a split without augmentation: accuracy per level, of the leaf and of every head; predictions on request."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.data import Batch
from hiercnn.files import atomic_file
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.metrics import LevelAccuracy, Mistakes
from hiercnn.models import Output, exact_scores
from hiercnn.train._world import World

TOP = 5  # classes kept of each sample's predictions between the first and the last evaluation


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader,
    cuts: Sequence[Cut],
    hierarchy: Hierarchy,
    *,
    heads: Mapping[str, Cut] | None = None,
    autocast: Callable[[], object],
    layers: Sequence[str] = (),
    collect: Sequence[Callable[[Batch, Output], None]] = (),
    world: World | None = None,
) -> dict[str, object]:
    """Return what `LevelAccuracy` and `Mistakes` compute, plus {"heads": {name: accuracy}}.

    Each of `collect` sees every batch and output, features of `layers` included. In a `world` of several processes the loader gives each
    its part of a batch, and all see the scores of the whole.
    """
    model.eval()
    world = world or World()
    levels, mistakes = LevelAccuracy(hierarchy.num_classes, cuts, loader.device), Mistakes(hierarchy, loader.device)
    groups = {name: torch.tensor(cut.label_groups, device=loader.device) for name, cut in (heads or {}).items()}
    hits = {name: torch.zeros(2, dtype=torch.int64, device=loader.device) for name in groups}
    for batch in loader.epoch():
        parts = world.parts(batch.images)
        if not sum(parts.counts):
            continue
        with autocast(), exact_scores(model):
            output = world.scores(model, batch.images, parts, *([layers] if layers else []))
        batch = batch._replace(labels=world.joined(batch.labels, parts), indices=world.joined_indices(batch.indices, parts))
        levels.update(output.leaf.float(), batch.labels)
        mistakes.update(output.leaf.float(), batch.labels)
        for name, logits in output.heads.items():
            wanted = groups[name][batch.labels]
            hits[name] += torch.stack([(logits.argmax(1) == wanted).sum(), (wanted >= 0).sum()])
        for see in collect:
            see(batch, output)
    result = levels.compute() | mistakes.compute()
    return result | {"heads": {name: (hit[0] / hit[1]).item() for name, hit in hits.items()}} if groups else result


class PredictionLog:
    """Collects predictions of one pass and writes them as npz.

    Whole logits (float16 [n, C]) with `full`; otherwise the `TOP` best classes, their probabilities, and the probability of every group
    of each cut.
    """

    def __init__(self, cuts: Sequence[Cut], *, full: bool):
        self.full = full
        self._groups = {cut.name: (torch.tensor(cut.groups), len(cut)) for cut in cuts if cut.name != "leaf"}
        self._columns: dict[str, list[np.ndarray]] = {}

    def __call__(self, batch: Batch, output: Output) -> None:
        logits = output.leaf.float().cpu()
        self._add("labels", batch.labels.cpu())
        self._add("indices", batch.indices)
        if self.full:
            self._add("logits", logits.half())
            return
        probabilities = logits.softmax(1)
        top = probabilities.topk(min(TOP, logits.shape[1]), dim=1)
        self._add("top_classes", top.indices.int())
        self._add("top_probabilities", top.values.half())
        for name, (groups, count) in self._groups.items():
            self._add(f"sums/{name}", torch.zeros(len(logits), count).index_add_(1, groups, probabilities).half())

    def save(self, path: Path, ids: Sequence[str]) -> None:
        """Write the collected columns; whole logits bring the ids of the samples along."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        if self.full:
            columns["ids"] = np.array([ids[i] for i in columns["indices"]])
        with atomic_file(path) as scratch, open(scratch, "wb") as file:
            np.savez_compressed(file, **columns)

    def _add(self, name: str, values: Tensor) -> None:
        self._columns.setdefault(name, []).append(values.numpy())
