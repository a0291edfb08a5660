"""What all decision rules share: their hierarchy as buffers, their checks, blocks of bounded size, and words for reasons."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hiercnn.errors import DataError
from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._marginals import Marginals
from hiercnn.ops import check_device, check_floats

BLOCK = {"cpu": 2**19, "cuda": 2**25}  # numbers in a table of one block: on a CPU it should stay in the cache


class Decision(NamedTuple):
    """Answers for B samples.

    Attributes:
        nodes: Node of the hierarchy for each sample [B], int64.
        probability: Probability of that node [B], float32 (float64 for logits in float64).
    """

    nodes: Tensor
    probability: Tensor


class Rule(nn.Module):
    """Base of the decision rules: leaf logits → one node a sample. A rule writes `choose`, and `explain` for the reason in words.

    One that needs the heads' logits says `reads_heads = True`; a predictor does not compute them for others.

    Args:
        hierarchy: Its classes are the logits.
        temperature: T; logits are divided by it before anything else.

    Shapes:
        logits [B, C] on the rule's device (`.to()` moves it), half types as float32, and for rules that read them the heads' logits
        {name: [B, K]} → `Decision`. Works in blocks, so that little memory is needed beside the logits.

    Raises:
        ShapeError: Logits of another size, type or device. DataError: logits from which no probabilities follow (NaN, ∞).
    """

    reads_heads = False

    def __init__(self, hierarchy: Hierarchy, *, temperature: float):
        super().__init__()
        self.hierarchy = hierarchy
        self.temperature = temperature
        for name in ("leaf_order", "leaf_nodes", "starts", "stops"):
            self.register_buffer(name, torch.tensor(getattr(hierarchy, name)), persistent=False)

    @torch.no_grad()
    def forward(self, logits: Tensor, heads: Mapping[str, Tensor] | None = None) -> Decision:
        check_floats("logits", logits, ("class", self.hierarchy.num_classes))
        check_device("rule", self.starts, logits)
        size = max(1, BLOCK.get(logits.device.type, BLOCK["cpu"]) // self.hierarchy.num_nodes)
        kind = torch.float64 if logits.dtype == torch.float64 else torch.float32
        decision = Decision(self.starts.new_empty(len(logits)), logits.new_empty(len(logits), dtype=kind))
        for first in range(0, len(logits), size):
            rows = slice(first, first + size)
            marginals = self.marginals(logits[rows], {name: scores[rows] for name, scores in (heads or {}).items()})
            decision.nodes[rows] = nodes = self.choose(marginals)
            decision.probability[rows] = marginals.of(nodes[:, None])[:, 0]
        if decision.probability.isnan().any():
            row = int(decision.probability.isnan().nonzero()[0])
            raise DataError(
                f"logits: no probabilities follow from row {row}: it holds NaN, +∞ or −∞ alone; look at the network or its input"
            )
        return decision

    @torch.no_grad()
    def reason(self, logits: Tensor, heads: Mapping[str, Tensor] | None = None) -> str:
        """Why one sample with leaf logits [C] (and heads' logits {name: [K]}) gets its answer, in one sentence."""
        logits, heads = logits[None], {name: scores[None] for name, scores in (heads or {}).items()}
        return self.explain(self.marginals(logits, heads), int(self(logits, heads).nodes))

    def marginals(self, logits: Tensor, heads: Mapping[str, Tensor] | None = None) -> Marginals:
        """Probabilities of the nodes, as the rule sees them."""
        return Marginals(self.amended(logits, heads or {}), self.leaf_order, self.starts, self.stops)

    def amended(self, logits: Tensor, heads: Mapping[str, Tensor]) -> Tensor:
        """The logits [B, C] from which the rule's probabilities follow, float32 or float64."""
        return (logits if logits.dtype == torch.float64 else logits.float()) / self.temperature

    def choose(self, marginals: Marginals) -> Tensor:
        """The answers: one node a sample [B], int64."""
        raise NotImplementedError

    def rank(self, marginals: Marginals) -> Tensor:
        """Scores of the classes [B, C], by which the rule would list them: the best first."""
        return marginals.logits

    def explain(self, marginals: Marginals, node: int) -> str:
        """The reason for the answer `node`, for the one sample of `marginals`."""
        raise NotImplementedError

    # ---- for reasons: one sample

    def title(self, node: int) -> str:
        """What the node is called."""
        return self.hierarchy.titles[node]

    def share(self, marginals: Marginals, node: int, limit: float | None = None) -> str:
        """The node's probability as `percent` writes it."""
        return percent(float(marginals.of(self.starts.new_tensor([[node]]))), limit)

    def best_node(self, marginals: Marginals) -> int:
        """The node of the most probable class."""
        return int(self.leaf_nodes[marginals.best])

    def best_child(self, marginals: Marginals, node: int) -> int:
        """The most probable child of an inner node, the first of equal ones."""
        children = torch.tensor(self.hierarchy.children(node), device=self.starts.device)
        return int(children[marginals.of(children[None]).argmax()])


def percent(share: float, limit: float | None = None) -> str:
    """`41 %`: with as few digits as keep it on its side of `limit` and, unless it is 0 or 1, away from 0 and 100 %."""
    limits = (0.0, 1.0) if limit is None else (0.0, 1.0, limit)
    for digits in range(9):
        text = f"{100 * share:.{digits}f}"
        shown = float(f"{text}e-2")
        if all((share > x, share < x) == (shown > x, shown < x) for x in limits):
            break
    return f"{text} %"


def exactly(limit: float) -> str:
    """`97.5 %`: a limit that somebody has set, with all its digits."""
    return percent(limit, limit)


def deepest(paths: Tensor, kept: Tensor) -> Tensor:
    """The last node on each path [B, L], from the root down, that is kept [B, L] bool; the root where none is: [B]."""
    last = (kept * torch.arange(paths.shape[1], device=paths.device)).amax(1, keepdim=True)
    return paths.gather(1, last)[:, 0]
