"""Answers for images: a network, its preprocessing and a decision rule."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hiercnn.data import DataSettings, ImageSet, make_loader
from hiercnn.hierarchy import Cut
from hiercnn.inference._inputs import Inputs
from hiercnn.inference._rule import Rule
from hiercnn.models import Output, exact_scores
from hiercnn.ops import path_table

BOMB = 178_956_970  # pixels; Pillow refuses larger files as well


class Prediction(NamedTuple):
    """The answer for one image.

    Attributes:
        id: What the image is called: its path, or `image 3`.
        name, title: Of the node that is the answer.
        level: The cut that it belongs to (`leaf`, `20 groups`), or `depth 2`.
        probability: Of the node.
        path: Title and probability of every node from below the root down to the answer.
        best: Title and probability of the most probable class.
        reason: Why the rule answers so, in words.
    """

    id: str
    name: str
    title: str
    level: str
    probability: float
    path: tuple[tuple[str, float], ...]
    best: tuple[str, float]
    reason: str

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return self._asdict() | {"path": [list(node) for node in self.path], "best": list(self.best)}


class Predictor:
    """A network with the preprocessing that it was trained with, and a decision rule.

    Args:
        network: Images [B, channels, H, W] → `Output`, or leaf logits [B, C].
        rule: Its hierarchy's classes are the logits.
        settings: Size, interpolation, mean and std of images, batch size and workers of the loader.
        channels: Colour channels of the images.
        cuts: Cuts whose names answers bear. leaf_level: what the level of the classes is called.
        device: Where the network runs.
        autocast: Context in which it runs.
        channels_last: Memory layout of images, which decides how fast a network of this layout is.
        max_pixels: Larger files count as unreadable.

    Attributes:
        unreadable: {file: why} of the files that were passed and could not be read.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: Rule,
        settings: DataSettings,
        *,
        channels: int = 3,
        cuts: Sequence[Cut] = (),
        leaf_level: str = "leaf",
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        channels_last: bool = False,
        max_pixels: int = BOMB,
    ):
        self.network, self.rule, self.cuts, self.leaf_level = network.to(device).eval(), rule.cpu(), list(cuts), leaf_level
        self.channels, self.device, self.autocast, self.max_pixels = channels, torch.device(device), autocast, max_pixels
        self.settings = settings.model_copy(update={"max_unreadable": 1.0})  # those are reported, never an end
        self.channels_last = channels_last
        self.unreadable: dict[str, str] = {}

    @property
    def hierarchy(self):
        return self.rule.hierarchy

    def __call__(self, images: object) -> list[Prediction]:
        """Answers for one or several images, in order; unreadable files are left out and stand in `unreadable`."""
        return list(self.stream(images))

    def stream(self, images: object, done: Callable[[int], None] | None = None) -> Iterator[Prediction]:
        """Answers one by one, as batches are ready.

        Args:
            images: A file, a folder (all images in it), a PIL image, an array [H, W] or [H, W, 3] of uint8, several of these, or `inputs`.
            done: Called with the number of images of each batch.

        Raises:
            DataError: No images, or what is none of these.
        """
        inputs = images if isinstance(images, Inputs) else self.inputs(images)
        image_set = ImageSet(np.zeros(len(inputs), dtype=np.int64), inputs.ids, dataset=inputs, positions=np.arange(len(inputs)))
        layout = {"channels": self.channels, "device": self.device, "channels_last": self.channels_last}
        loader = make_loader(image_set, self.settings, train=False, **layout)
        for batch in loader.epoch():
            if len(batch.indices):
                yield from self.answers(self.score(batch.images), loader.ids(batch.indices))
            if done is not None:
                done(len(batch.indices))
            self.unreadable |= loader.unreadable

    def inputs(self, images: object) -> Inputs:
        """The images as one list, whose length is known before any is read."""
        return Inputs(images, self.channels, self.max_pixels)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Output:
        """The network's scores of normalised images [B, channels, H, W], on the CPU, where rules decide."""
        with self.autocast(), exact_scores(self.network):
            output = self.network(images)
        output = Output(output) if isinstance(output, Tensor) else output
        return Output(output.leaf.float().cpu(), {name: logits.float().cpu() for name, logits in output.heads.items()})

    @torch.inference_mode()
    def answers(self, output: Output, ids: Sequence[str]) -> list[Prediction]:
        """The rule's answers to scores of some images."""
        tree, decision = self.hierarchy, self.rule(output.leaf, output.heads)
        marginals = self.rule.marginals(output.leaf, output.heads)
        paths = self._paths[decision.nodes]  # [B, depths], -1 below the answer
        shares = marginals.of(paths.clamp(min=0)).tolist()
        best = self.rule.leaf_nodes[marginals.best]
        best_shares = marginals.of(best[:, None])[:, 0].tolist()
        found = []
        for row, (name, node, top) in enumerate(zip(ids, decision.nodes.tolist(), best.tolist(), strict=True)):
            nodes = [v for v in paths[row].tolist() if v > 0]
            path = tuple((tree.titles[v], shares[row][depth]) for depth, v in enumerate(nodes, start=1))
            reason = self.rule.explain(marginals.row(row), node)
            answer = (tree.names[node], tree.titles[node], self._levels[node], decision.probability[row].item())
            found.append(Prediction(name, *answer, path, (tree.titles[top], best_shares[row]), reason))
        return found

    @cached_property
    def _paths(self) -> Tensor:
        tree = self.hierarchy
        return path_table(tree.parents, tree.depths, np.arange(tree.num_nodes))

    @cached_property
    def _levels(self) -> list[str]:
        """What the level of every node is called."""
        tree = self.hierarchy
        levels = [f"depth {depth}" for depth in tree.depths]
        for cut in self.cuts:
            for node in () if cut.nodes is None else cut.nodes:
                levels[node] = cut.name
        for node in tree.leaf_nodes:
            levels[node] = self.leaf_level
        return levels
