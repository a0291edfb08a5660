"""How well the trees that networks make of their classes agree with trees of their meaning.

    python tools/tree_agreement.py runs/compare/cifar100-flat-seed* --trees cifar100 cifar100_semantic --out tools/results/agreement.csv

Every run's classes are clustered by features, classifier rows, logits and confusions, and by what linkage may follow. A row is one run, one
way of clustering and one tree: tree correlation (Pearson, Spearman, p of Mantel's test) of the whole dendrogram; ARI, AMI and purity of its
partition into as many groups as the tree's cut has. Means over the runs are printed.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hiercnn.clustering import partition_agreement, tree_correlation, tree_distances
from hiercnn.errors import HierCNNError
from hiercnn.hierarchy import Hierarchy, builtin, builtin_names, read_hierarchy
from hiercnn.recipe import Run, cluster_run
from hiercnn.train import git_commit

WAYS = [  # source, linkage, metric
    *(("features", linkage, metric) for linkage, metric in (("average", "cosine"), ("complete", "cosine"), ("ward", "unit"))),
    *(("weights", linkage, metric) for linkage, metric in (("average", "cosine"), ("complete", "cosine"), ("ward", "unit"))),
    *((source, linkage, None) for source in ("logits", "confusion") for linkage in ("average", "complete")),
]


def agreement(run: Run, trees: dict[str, Hierarchy], groups: int) -> list[dict[str, object]]:
    """A row for every way of clustering and every tree."""
    rows = []
    for source, linkage, metric in WAYS:
        found = cluster_run(run, source, linkage=linkage, metric=metric)
        heights, partition = found.dendrogram.cophenetic(), found.dendrogram.groups(groups)
        for name, tree in trees.items():
            given = tree.with_classes(found.classes)
            whole = tree_correlation(heights, tree_distances(given))
            cut = given.cut(groups=groups)
            part = partition_agreement(partition if len(cut) == groups else found.dendrogram.groups(len(cut)), cut.groups)
            rows.append(
                {
                    "run": run.path.name,
                    "backbone": run.recipe.model.backbone,
                    "source": source,
                    "linkage": linkage,
                    "metric": metric or "",
                    "tree": name,
                    "groups": len(cut),
                    **{key: round(value, 4) for key, value in (whole._asdict() | part._asdict()).items()},
                    "largest_group": int(np.bincount(partition).max()),
                    "commit": git_commit(),
                }
            )
    return rows


def table_of(rows: list[dict[str, object]]) -> Table:
    table = Table("clustering", "tree", "tree correlation", "Mantel p", "groups", "ARI", "AMI", "purity", "largest group")
    for key in dict.fromkeys((row["source"], row["linkage"], row["metric"], row["tree"]) for row in rows):
        mine = [row for row in rows if (row["source"], row["linkage"], row["metric"], row["tree"]) == key]
        mean = {name: np.mean([row[name] for row in mine]) for name in ("pearson", "ari", "ami", "purity", "largest_group")}
        sd = np.std([row["pearson"] for row in mine], ddof=1) if len(mine) > 1 else 0.0
        table.add_row(
            " ".join(filter(None, key[:3])),
            key[3],
            f"{mean['pearson']:.2f} ± {sd:.2f}",
            f"{max(row['p'] for row in mine):.3f}",
            str(mine[0]["groups"]),
            *(f"{mean[name]:.2f}" for name in ("ari", "ami", "purity")),
            f"{mean['largest_group']:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, such as several seeds of one recipe")
    parser.add_argument("--trees", nargs="+", default=["cifar100"], help="shipped names or files of trees of the same classes")
    parser.add_argument("--groups", type=int, default=20, help="groups of the cut that partitions are compared with")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    try:
        trees = {name: builtin(name) if name in builtin_names() else read_hierarchy(name) for name in arguments.trees}
        rows = [row for path in track(arguments.runs, "clustering") for row in agreement(Run(path), trees, arguments.groups)]
    except HierCNNError as error:
        parser.error(str(error))
    Console(width=150).print(table_of(rows))
    if arguments.out is not None:
        with open(arguments.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
