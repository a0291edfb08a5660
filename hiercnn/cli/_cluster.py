"""`hiercnn cluster`: the tree that a network makes of its classes."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hiercnn.clustering import draw_dendrogram, partition_agreement, tree_correlation, tree_distances
from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import save_hierarchy
from hiercnn.recipe import Clustered, Run, cluster_run

SHOWN = 60  # groups that are printed


def print_clusters(run: Run, source: str, options: dict, groups: list[int] | None, out: Path | None, draw: Path | None) -> None:
    """Cluster, print groups and agreement with the run's own tree, write what was asked for."""
    if not run.exists():
        raise HierarchyError(f"no run in {run.path}; train one first, such as: hiercnn train cifar100/flat")
    found = cluster_run(run, source, **options)
    tree = found.hierarchy(groups)
    console = Console(soft_wrap=True, highlight=False)
    if groups:
        console.print(_groups(found, max(groups)))
    console.print(_agreement(run, found))
    if out is not None:
        save_hierarchy(tree, out)
        console.print(f"tree written to {out}", markup=False)
    if draw is not None:
        draw_dendrogram(draw, found.dendrogram.ordered(found.distances), found.classes, max(groups) if groups else None)
        console.print(f"dendrogram drawn in {draw}", markup=False)


def _groups(found: Clustered, count: int) -> Table:
    table = Table("group", "classes", title=f"{count} groups", title_justify="left", box=None)
    member = found.dendrogram.groups(count)
    for group in range(min(count, SHOWN)):
        table.add_row(str(group + 1), ", ".join(found.classes[leaf] for leaf in np.flatnonzero(member == group)))
    if count > SHOWN:
        table.add_row("…", f"and {count - SHOWN} more")
    return table


def _agreement(run: Run, found: Clustered) -> Table:
    """With the tree that the run was given, which its clustering did not see."""
    table = Table("the run's own tree", "agreement", title="Agreement", title_justify="left", box=None)
    if run.hierarchy.height > 1 and len(found.classes) > 2:
        whole = tree_correlation(found.dendrogram.cophenetic(), tree_distances(run.hierarchy))
        table.add_row("whole", f"tree correlation {whole.pearson:.2f} (Spearman {whole.spearman:.2f}, Mantel p {whole.p:.3f})")
    for cut in run.cuts:
        one = partition_agreement(found.dendrogram.groups(len(cut)), cut.groups)
        table.add_row(cut.name, f"ARI {one.ari:.2f}, AMI {one.ami:.2f}, purity {one.purity:.2f}")
    return table
