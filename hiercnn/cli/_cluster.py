"""`hiercnn cluster`: the tree that a network makes of its classes."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from hiercnn.clustering import FORMATS, draw_dendrogram, partition_agreement, tree_correlation, tree_distances
from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, save_hierarchy
from hiercnn.recipe import Clustered, Run, cluster_run

SHOWN = 60  # groups that are printed
FEW, MOST = 1000, 5000  # classes up to which Mantel's test has 999 permutations, and up to which whole trees are compared at all


def print_clusters(run: Run, source: str, options: dict, groups: list[int] | None, out: Path | None, draw: Path | None) -> None:
    """Cluster, print groups and agreement with the run's own tree, write what was asked for."""
    if not run.exists():
        raise HierarchyError(f"no run in {run.path}; train one first, such as: hiercnn train cifar100/flat")
    _check_endings(out, draw)
    found = cluster_run(run, source, **options)
    tree = found.hierarchy(groups)
    console = Console(soft_wrap=True, highlight=False)
    if groups:
        console.print(_groups(tree, len(set(groups)), max(groups)))
    console.print(_agreement(run, found))
    if out is not None:
        save_hierarchy(tree, out)
        console.print(f"tree written to {out}", markup=False)
    if draw is not None:
        draw_dendrogram(draw, found.dendrogram.ordered(found.distances), found.classes, max(groups) if groups else None)
        console.print(f"dendrogram drawn in {draw}", markup=False)


def _check_endings(out: Path | None, draw: Path | None) -> None:
    """Before the work: can these be written?"""
    if out is not None and out.suffix != ".json":
        raise HierarchyError(f"--out {out}: a tree is written as .json")
    if draw is not None and draw.suffix not in FORMATS:
        raise HierarchyError(f"--draw {draw}: pictures end in {', '.join(FORMATS)}")


def _groups(tree: Hierarchy, depth: int, count: int) -> Table:
    """The finest level above the classes."""
    table = Table("group", "classes", title=f"{count} groups", title_justify="left", box=None)
    nodes = [node for node in tree.cut(depth=depth).nodes if not tree.is_leaf(node)]
    for node in nodes[:SHOWN]:
        number = tree.names[node].removeprefix("cluster ").split()[0]
        hypernym, _, known = tree.titles[node].rpartition(": ")
        members = ", ".join(tree.classes[leaf] for leaf in tree.leaves(node))
        table.add_row(number, f"{hypernym}: {members}" if known and hypernym else members)
    if len(nodes) > SHOWN:
        table.add_row("…", f"and {len(nodes) - SHOWN} more")
    return table


def _agreement(run: Run, found: Clustered) -> Table:
    """With the tree that the run was given, which its clustering did not see."""
    table = Table("the run's own tree", "agreement", title="Agreement", title_justify="left", box=None)
    if run.hierarchy.height > 1 and 2 < len(found.classes) <= MOST:
        permutations = 999 if len(found.classes) <= FEW else 99
        whole = tree_correlation(found.dendrogram.cophenetic(), tree_distances(run.hierarchy), permutations=permutations)
        table.add_row("whole", f"tree correlation {whole.pearson:.2f} (Spearman {whole.spearman:.2f}, Mantel p {whole.p:.3f})")
    for cut in run.cuts:
        one = partition_agreement(found.dendrogram.groups(len(cut)), cut.groups)
        table.add_row(cut.name, f"ARI {one.ari:.2f}, AMI {one.ami:.2f}, purity {one.purity:.2f}")
    return table
