"""What the operators of hiercnn.ops cost, forward and backward, measured side by side with F.cross_entropy in one process.

    python tools/bench/bench_ops.py --out tools/bench/ops.csv --plot ops.svg

F.cross_entropy on the leaf logits [B, C] is the unit: it runs just before every other measurement, so a busy machine slows both, and a
ratio is the median over rounds with its quartiles. Its own row, against itself, shows the noise. Competitors: `dense HXE`, the maths of
`ring_nll HXE` with a table of ancestors [C, N], up to 2 GiB; `hierarchicalsoftmax` from PyPI, if it is installed. Before anything is
timed, they must give the values of the operator they compete with.

Trees: cifar100 (C = 100), WordNet's imagenet1k (1,000), both without only children, and for any other C a made one with WordNet's fan-outs
and height.
Memory is the peak of one step above what was there before, the gradient included, in units of the float32 logits: the device's on CUDA,
else that of a process of its own, on Linux, for C = 100,000. On CUDA times are the device's, of a captured graph (`eager`: it cannot be
captured), and `bandwidth_share` compares with a measured copy what must move: scores read forward and backward, the gradient written, and
what is [B, C] or [B, N] behind the operator (over 1 where a cache holds it).
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Hierarchy, builtin
from hiercnn.ops import Nodes, Rings, conditional_nll, margin_nll, node_log_marginals, path_sum, path_table, ring_nll
from hiercnn.train import device_name, git_commit, pick_device

UNIT = "cross_entropy"
SAME = {"dense HXE": "ring_nll HXE", "hierarchicalsoftmax": "conditional_nll"}  # competitor and operator of one value
BUILTIN = {100: "cifar100", 1000: "imagenet1k"}
ALPHA = 0.3  # of HXE
LEVEL_DEPTH = 2  # of the one level of level NLL
DENSE_BYTES = 2 * 2**30
MEMORY_CLASSES = 100_000
SAMPLE_MS = 4.0  # on a CPU, calls are repeated until a sample takes as long
LONG_MS = 50.0  # a call as long needs no other before it to fill the caches
LEAST_ROUNDS = 3
GRAPH_CALLS = 20
COLOURS = {  # Okabe-Ito; greys for competitors
    UNIT: "#222222",
    "ring_nll HXE": "#0072B2",
    "ring_nll level": "#56B4E9",
    "conditional_nll": "#E69F00",
    "margin_nll": "#009E73",
    "node_log_marginals": "#CC79A7",
    "path_sum": "#D55E00",
    "dense HXE": "#999999",
    "hierarchicalsoftmax": "#666666",
}


# ---- trees and their tables


def tree_of(classes: int) -> Hierarchy:
    return builtin(BUILTIN[classes]).collapse() if classes in BUILTIN else made_tree(classes)


def made_tree(classes: int, seed: int = 0) -> Hierarchy:
    """A random tree about as deep as WordNet's: each inner node deals its leaves out to so many children, unevenly.

    Numbers of children are the larger of two draws of WordNet's, to the power log C ÷ log 1000: more leaves must come in as many steps.
    """
    wordnet, generator = builtin(BUILTIN[1000]), np.random.default_rng(seed)
    fan_outs = np.bincount(wordnet.parents[1:])
    fan_outs = np.round(fan_outs[fan_outs > 0] ** (np.log(classes) / np.log(1000))).astype(int)
    parents, stack = [-1], [(0, classes, 0)]
    while stack:
        node, leaves, depth = stack.pop()
        if leaves == 1 and depth:
            continue
        last = depth == wordnet.height - 1
        children = leaves if last else min(leaves, max(fan_outs[generator.integers(len(fan_outs), size=2)]))
        dealt = 1 + generator.multinomial(leaves - children, generator.dirichlet(np.full(children, 2.0)))
        stack += [(len(parents) + child, int(share), depth + 1) for child, share in enumerate(dealt)]
        parents += [node] * children
    return Hierarchy([f"n{node}" for node in range(len(parents))], parents)


class Tables(NamedTuple):
    """A tree as the operators want it, on one device."""

    tree: Hierarchy
    nodes: Nodes
    paths: Tensor
    hxe: Rings
    level: Rings


def tables_of(tree: Hierarchy, device: torch.device) -> Tables:
    nodes = Nodes.from_parents(tree.parents, tree.leaf_nodes)
    paths = path_table(tree.parents, tree.depths, tree.label_nodes)
    hxe, level = rings(tree, paths, hxe_weights(paths)), level_rings(tree, paths)
    nodes, hxe, level = (type(table)(*(_to(field, device) for field in table)) for table in (nodes, hxe, level))
    return Tables(tree, nodes, paths.to(device), hxe, level)


def _to(field: object, device: torch.device) -> object:
    return field.to(device) if isinstance(field, Tensor) else field


def rings(tree: Hierarchy, paths: Tensor, weight: Tensor) -> Rings:
    """Ranges of the nodes in `paths` [T, L], one row a label; behind a path's end they are empty, at the last start."""
    paths, last = paths.numpy(), tree.starts[tree.label_nodes][:, None]
    starts, stops = (np.where(paths >= 0, ends[paths], last) for ends in (tree.starts, tree.stops))
    return Rings(torch.tensor(tree.leaf_order), torch.from_numpy(starts), torch.from_numpy(stops), weight)


def hxe_weights(paths: Tensor, alpha: float = ALPHA) -> Tensor:
    """Weights [T, L] of −log q_k: λ_k − λ_{k + 1}, where λ_k = exp(−α (k − 1)) is that of −log(q_k ÷ q_{k − 1}), 0 behind the end."""
    shares = torch.exp(-alpha * torch.arange(-1, paths.shape[1] - 1)) * (paths >= 0)
    weight = shares - F.pad(shares[:, 1:], (0, 1))
    weight[:, 0] = 0
    return weight.contiguous()


def level_rings(tree: Hierarchy, paths: Tensor) -> Rings:
    """−log p_y beside −log q of y's ancestor at one depth, or of y where that is higher: three nodes a label."""
    label = torch.tensor(tree.label_nodes)[:, None]
    depths = torch.tensor(tree.depths[tree.label_nodes])[:, None]
    table = torch.cat([paths[:, :1], paths.gather(1, depths.clamp(max=LEVEL_DEPTH)), label], 1)
    return rings(tree, table, torch.tensor([0.0, 1.0, 1.0]).repeat(len(table), 1))


# ---- what is measured


class Entry(NamedTuple):
    """A function of scores; its gradient is taken for `upstream`, or for 1 if it is a mean loss. `graphed`: a CUDA graph can hold it."""

    what: str
    value: Callable[[Tensor], Tensor]
    scores: Tensor
    upstream: Tensor | None = None
    graphed: bool = True

    def step(self) -> Tensor:
        """Forward and backward."""
        return torch.autograd.grad(self.value(self.scores), self.scores, self.upstream)[0]

    def bytes(self) -> int:
        """What must move: scores forward, scores backward, their gradient; a table-valued result and its gradient."""
        return 3 * self.scores.nbytes + (2 * self.upstream.nbytes if self.upstream is not None else 0)


def entries(tables: Tables, batch: int, dtype: torch.dtype) -> list[Entry]:
    """Everything that runs at one size, the unit first."""
    tree, nodes, paths, hxe, level = tables
    device = paths.device
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(tree.num_classes, (batch,), generator=generator).to(device)
    sizes = {"leaf": tree.num_classes, "node": tree.num_nodes - 1, "all": tree.num_nodes}
    made = {key: torch.randn(batch, size, generator=generator).to(device, dtype) for key, size in sizes.items()}
    leaf, node = (made[key].requires_grad_() for key in ("leaf", "node"))
    ones = torch.ones(paths.shape, device=device)
    return [
        Entry(UNIT, lambda z: F.cross_entropy(z, target), leaf),
        Entry("ring_nll HXE", lambda z: ring_nll(z, target, hxe).mean(), leaf),
        Entry("ring_nll level", lambda z: ring_nll(z, target, level).mean(), leaf),
        Entry("conditional_nll", lambda z: conditional_nll(z, target, nodes, paths, ones).mean(), node),
        Entry("margin_nll", lambda z: margin_nll(z, target, paths).mean(), node),
        Entry("node_log_marginals", lambda z: node_log_marginals(z, nodes), leaf, made["all"].float()),
        Entry("path_sum", lambda z: path_sum(z, nodes), node, made["leaf"].detach().float()),
        *dense(tables, target, leaf),
        *hierarchicalsoftmax(tables, target, node),
    ]


def dense(tables: Tables, target: Tensor, leaf: Tensor) -> Iterator[Entry]:
    """HXE by a table of ancestors: marginals are softmax [B, C] @ table [C, N]. Nothing where that is over 2 GiB."""
    size = (tables.tree.num_classes, tables.tree.num_nodes)
    if 4 * size[0] * size[1] > DENSE_BYTES:
        return
    paths, weight = tables.paths.clamp(min=0), tables.hxe.weight
    table = torch.zeros(size, device=leaf.device).scatter_(1, paths[: size[0]], 1.0)  # −1 becomes the root, above every class
    path, weight = paths[target], weight[target]

    def loss(logits: Tensor) -> Tensor:
        marginals = logits.float().softmax(1) @ table
        return -(weight * marginals.gather(1, path).clamp(min=1e-30).log()).sum(1).mean()

    yield Entry("dense HXE", loss, leaf)


def hierarchicalsoftmax(tables: Tables, target: Tensor, node: Tensor) -> Iterator[Entry]:
    """The library's loss, on the scores of nodes that have siblings; for float32, and nothing if it is not installed."""
    try:
        from hierarchicalsoftmax import HierarchicalSoftmaxLoss, SoftmaxNode
    except ImportError:
        return
    if node.dtype != torch.float32:
        return
    made: list[SoftmaxNode] = []
    for number, parent in enumerate(tables.tree.parents):
        made.append(SoftmaxNode(str(number), parent=made[parent] if parent >= 0 else None))
    loss = HierarchicalSoftmaxLoss(made[0])
    columns = torch.tensor([int(one.name) - 1 for one in made[0].node_list_softmax], device=node.device)
    labels = made[0].get_node_ids_tensor([made[tables.tree.leaf_nodes[label]] for label in target.tolist()]).to(node.device)
    scores = node.detach()[:, columns].contiguous().requires_grad_()
    yield Entry("hierarchicalsoftmax", lambda z: loss(z, labels), scores, graphed=False)


def check_values(found: list[Entry]) -> None:
    """Raise HierCNNError unless competitors give the values of the operators."""
    by_name = {entry.what: entry for entry in found}
    for theirs, ours in ((by_name[theirs], by_name[ours]) for theirs, ours in SAME.items() if theirs in by_name):
        with torch.no_grad():
            wanted, got = float(ours.value(ours.scores)), float(theirs.value(theirs.scores))
        if abs(wanted - got) > 1e-3 * abs(wanted):
            raise HierCNNError(f"{theirs.what} gives {got}, {ours.what} {wanted}; they are not the same loss")


# ---- clocks


def timer(entry: Entry, device: torch.device) -> Callable[[], float]:
    """A function that takes one sample: milliseconds of one forward and backward."""
    return _cuda_timer(entry) if device.type == "cuda" else _cpu_timer(entry)


def _warm_allocator() -> None:
    """Free a large block once, as any training has: until then glibc hands blocks of some MiB back, and every call pays for fresh pages."""
    torch.zeros(30 * 2**20, dtype=torch.uint8)


def _cpu_timer(entry: Entry) -> Callable[[], float]:
    def sample(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            entry.step()
        return 1000 * (time.perf_counter() - began) / calls

    once = sample(1)
    if once < 100:
        once = min(sample(1) for _ in range(5))
    calls = max(1, round(SAMPLE_MS / once))
    return lambda: sample(calls) if once > LONG_MS else (sample(calls), sample(calls))[1]  # the first wins the caches back


def _cuda_timer(entry: Entry) -> Callable[[], float]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            entry.step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    if not entry.graphed:
        return lambda: _elapsed(entry.step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_CALLS):
            entry.step()
    return lambda: _elapsed(graph.replay) / GRAPH_CALLS


def _elapsed(run: Callable[[], object]) -> float:
    """Milliseconds between two events around it."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


class Samples(NamedTuple):
    """Milliseconds of an entry and of the unit just before, one each a round."""

    times: list[float]
    units: list[float]


def measure(found: list[Entry], device: torch.device, rounds: int, seconds: float) -> dict[str, Samples]:
    """Round-robin; who has used up its seconds drops out, after a few rounds at least."""
    timers = {entry.what: timer(entry, device) for entry in found}
    samples = {what: Samples([], []) for what in timers}
    for _ in range(rounds):
        for what, take in timers.items():
            times, units = samples[what]
            if len(times) < LEAST_ROUNDS or sum(times) < 1000 * seconds:
                units.append(timers[UNIT]())
                times.append(take())
    return samples


def copy_bandwidth(device: torch.device) -> float | None:
    """Bytes a millisecond that a copy reads and writes on CUDA, else None."""
    if device.type != "cuda":
        return None
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    return 2 * source.nbytes / float(np.median([_elapsed(lambda: copy.copy_(source)) for _ in range(12)][2:]))


# ---- memory


def peaks_of(found: list[Entry], device: torch.device) -> dict[str, float]:
    """Peak memory of one step in units of the float32 logits, by entry; empty where it is not measured."""
    leaf = found[0].scores
    if device.type == "cuda":
        return {entry.what: _cuda_peak(entry) / (4 * leaf.numel()) for entry in found}
    if leaf.shape[1] != MEMORY_CLASSES or not Path("/proc/self/clear_refs").exists():
        return {}
    command = [sys.executable, __file__, "--device", "cpu", "--threads", str(torch.get_num_threads())]
    command += ["--peak", "--classes", str(leaf.shape[1]), "--batch", str(leaf.shape[0])]
    mapped = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process, so that a peak is a peak
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=mapped).stdout)


def _cuda_peak(entry: Entry) -> int:
    entry.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    entry.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def print_peaks(arguments: argparse.Namespace) -> None:
    """The child's part: growth of this process's peak memory in one step of each entry, as JSON."""
    found = entries(tables_of(tree_of(arguments.classes[0]), torch.device("cpu")), arguments.batch[0], torch.float32)
    print(json.dumps({entry.what: _process_peak(entry) / found[0].scores.nbytes for entry in found}))


def _process_peak(entry: Entry) -> int:
    entry.step()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _status("VmRSS")
    entry.step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """A number of bytes that Linux keeps about this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


# ---- rows, table, picture


class Size(NamedTuple):
    """One size, and what goes for all its rows."""

    tables: Tables
    batch: int
    dtype: str
    device: torch.device
    bandwidth: float | None

    def title(self) -> str:
        return f"C = {self.tables.tree.num_classes:,}, N = {self.tables.tree.num_nodes:,}, B = {self.batch}, {self.dtype}"

    def row(self, entry: Entry, samples: Samples, memory: float | None) -> dict[str, object]:
        low, middle, high = np.quantile(samples.times, [0.25, 0.5, 0.75])
        ratios = np.quantile(np.divide(samples.times, samples.units), [0.25, 0.5, 0.75])
        share = entry.bytes() / middle / self.bandwidth if self.bandwidth else None
        return {
            "what": entry.what + (" (eager)" if self.device.type == "cuda" and not entry.graphed else ""),
            "classes": self.tables.tree.num_classes,
            "nodes": self.tables.tree.num_nodes,
            "batch": self.batch,
            "dtype": self.dtype,
            "median_ms": _round(middle),
            "q25_ms": _round(low),
            "q75_ms": _round(high),
            "min_ms": _round(min(samples.times)),
            "ratio_to_cross_entropy": _round(ratios[1]),
            "ratio_q25": _round(ratios[0]),
            "ratio_q75": _round(ratios[2]),
            "rounds": len(samples.times),
            "memory_in_logits": _round(memory),
            "bandwidth_share": _round(share),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": git_commit(),
        }


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def rows_of(size: Size, arguments: argparse.Namespace) -> list[dict[str, object]]:
    found = entries(size.tables, size.batch, getattr(torch, size.dtype))
    check_values(found)
    peaks = peaks_of(found, size.device)
    samples = measure(found, size.device, arguments.rounds, arguments.seconds)
    return [size.row(entry, samples[entry.what], peaks.get(entry.what)) for entry in found]


def table_of(title: str, rows: list[dict[str, object]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for column in ("median ms", r"\[quartiles]", "minimum", "÷ cross-entropy", r"\[quartiles]", "rounds", "memory ÷ logits", "bandwidth"):
        table.add_column(column, justify="right")
    for row in rows:
        middle, low, high, least = (f"{row[key]:.3g}" for key in ("median_ms", "q25_ms", "q75_ms", "min_ms"))
        ratio, below, above = (f"{row[key]:.3g}" for key in ("ratio_to_cross_entropy", "ratio_q25", "ratio_q75"))
        memory = "" if row["memory_in_logits"] is None else f"{row['memory_in_logits']:.2f}"
        share = "" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}"
        quartiles = rf"\[{low}, {high}]", rf"\[{below}, {above}]"
        table.add_row(row["what"], middle, quartiles[0], least, ratio, quartiles[1], str(row["rounds"]), memory, share)
    return table


def append(path: Path, rows: list[dict[str, object]]) -> None:
    fresh = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def draw(path: Path, rows: list[dict[str, object]]) -> None:
    """Ratio and time against C, both on log scales, a column a batch size; html, or what kaleido writes (svg, png, pdf)."""
    from plotly.subplots import make_subplots

    batches = sorted({row["batch"] for row in rows}, reverse=True)
    titles = [f"B = {batch}" for batch in batches] + [""] * len(batches)
    spacing = {"vertical_spacing": 0.05, "horizontal_spacing": 0.04}
    figure = make_subplots(2, len(batches), shared_xaxes=True, shared_yaxes=True, subplot_titles=titles, **spacing)
    panels = (("ratio_to_cross_entropy", "ratio_q25", "ratio_q75"), ("median_ms", "q25_ms", "q75_ms"))
    lines = {(row["what"], row["dtype"]): None for row in rows}  # in order, once each
    for line, (column, batch) in itertools.product(lines, enumerate(batches)):
        mine = [row for row in rows if (row["what"], row["dtype"], row["batch"]) == (*line, batch)]
        mine.sort(key=lambda row: row["classes"])
        for panel, keys in enumerate(panels):
            figure.add_scatter(**_line(line, mine, keys), showlegend=not column and not panel, row=panel + 1, col=column + 1)
    first = rows[0]
    where = f"{first['device']}, {first['threads']} threads, torch {first['torch']}, commit {first['commit']}"
    figure.update_xaxes(type="log", tickvals=sorted({row["classes"] for row in rows}), tickformat=",d", minor_ticks="")
    figure.update_xaxes(title_text="classes C", row=2)
    figure.update_yaxes(type="log", dtick=1, tickformat="~r", minor={"dtick": "D1", "showgrid": True, "gridcolor": "#f4f4f4"})
    figure.update_yaxes(title_text="÷ F.cross_entropy", row=1, col=1)
    figure.update_yaxes(title_text="milliseconds", row=2, col=1)
    figure.update_layout(
        template="plotly_white",
        font={"family": "Arial, Helvetica, Liberation Sans, sans-serif", "size": 13, "color": "#333333"},
        title={"text": f"Forward and backward: median, bars: quartiles<br><span style='font-size:13px'>{where}</span>", "x": 0.02},
        width=1280,
        height=860,
    )
    if path.suffix == ".html":
        figure.write_html(path)
    else:
        figure.write_image(path)


def _line(line: tuple[str, str], rows: list[dict[str, object]], keys: tuple[str, str, str]) -> dict[str, object]:
    (what, dtype), (middle, low, high) = line, keys
    name = what.removesuffix(" (eager)")
    values = {key: np.array([row[key] for row in rows]) for key in keys}
    bars = {"array": values[high] - values[middle], "arrayminus": values[middle] - values[low], "thickness": 1, "width": 3}
    dash = "solid" if dtype == "float32" else "dot"
    return {
        "x": [row["classes"] for row in rows],
        "y": values[middle],
        "error_y": bars | {"symmetric": False},
        "name": what if dtype == "float32" else f"{what}, {dtype}",
        "legendgroup": f"{what} {dtype}",
        "mode": "lines+markers",
        "line": {"color": COLOURS[name], "dash": "dash" if name in SAME else dash},
        "marker": {"size": 7, "symbol": "diamond" if name in SAME else "circle"},
    }


def sizes(arguments: argparse.Namespace, device: torch.device) -> Iterator[Size]:
    bandwidth = copy_bandwidth(device)
    for classes in arguments.classes:
        tables = tables_of(tree_of(classes), device)
        for batch in arguments.batch:
            for dtype in ("float32", "bfloat16") if device.type == "cuda" else ("float32",):
                yield Size(tables, batch, dtype, device, bandwidth)


def left_out(rows: list[dict[str, object]], title: str) -> Iterator[str]:
    """Which competitors are not in a table, and why."""
    there = {str(row["what"]).removesuffix(" (eager)") for row in rows}
    if "dense HXE" not in there:
        yield "dense HXE: skipped, its table would take over 2 GiB"
    if "hierarchicalsoftmax" not in there:
        yield "hierarchicalsoftmax: " + ("not installed" if title.endswith("float32") else "skipped, it is run in float32 alone")


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def classes(text: str) -> int:
    """Two classes or more, for argparse."""
    if (number := int(text)) < 2:
        raise ValueError
    return number


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=positive, help="threads of torch on a CPU; default: torch's")
    parser.add_argument("--classes", type=classes, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--batch", type=positive, nargs="+", default=[256, 32])
    parser.add_argument("--rounds", type=positive, default=50)
    parser.add_argument("--seconds", type=float, default=5.0, help=f"most that one row may be run for, after {LEAST_ROUNDS} rounds")
    parser.add_argument("--out", type=Path, help="CSV file to append the rows to")
    parser.add_argument("--plot", type=Path, help="picture to write: .html, or .svg, .png, which need Chrome or Chromium")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    arguments = arguments_of()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print_peaks(arguments)
        return
    device, console, rows = pick_device(arguments.device), Console(width=140), []
    _warm_allocator()
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    console.print(f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, commit {git_commit()}")
    for size in sizes(arguments, device):
        rows += (made := rows_of(size, arguments))
        console.print(table_of(size.title(), made), *left_out(made, size.title()), sep="\n")
        if arguments.out:
            append(arguments.out, made)
    if arguments.plot:
        draw(arguments.plot, rows)


if __name__ == "__main__":
    try:
        main()
    except HierCNNError as error:
        sys.exit(f"bench_ops.py: {error}")
