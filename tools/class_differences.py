"""Which classes and groups gain: accuracy of finished runs minus that of their flat twins, per group of a cut, mean over seeds.

    python tools/class_differences.py runs/x/flat-seed* --with runs/x/branches-seed* [--groups 20]

Prints a markdown table, best group first, and how many classes are better and worse. Runs are paired in the order given and must be of
one seed each; what they predicted on test (else on val) is read from their predictions/ folders.
"""

import argparse
from pathlib import Path

import numpy as np

from hiercnn.compare import markdown_table
from hiercnn.errors import DataError, HierCNNError
from hiercnn.hierarchy import Cut
from hiercnn.recipe import Run


def class_hits(run: Run, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each class [C]: of the leaf, and of the group at the cut."""
    file = next((run.predictions / name for name in ("test.npz", "val.npz") if (run.predictions / name).exists()), None)
    if file is None:
        raise DataError(f"{run.path} has no predictions; train it with eval.predictions=true")
    try:
        with np.load(file) as stored:
            labels, predicted = stored["labels"], stored["logits"].argmax(1)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
    known = labels < len(cut.groups)
    labels, predicted = labels[known], predicted[known]
    counts = np.maximum(np.bincount(labels, minlength=len(cut.groups)), 1)
    hits = (predicted == labels, cut.groups[predicted] == cut.groups[labels])
    return tuple(np.bincount(labels, weights=hit, minlength=len(cut.groups)) / counts for hit in hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flat", nargs="+", type=Path, help="run folders of the baseline")
    parser.add_argument(
        "--with", dest="other", nargs="+", type=Path, required=True, help="run folders to compare, in the same order of seeds"
    )
    parser.add_argument("--groups", type=int, help="groups of the cut; default: the finest cut that the runs report")
    arguments = parser.parse_args()
    if len(arguments.flat) != len(arguments.other):
        parser.error(f"{len(arguments.flat)} runs of the baseline and {len(arguments.other)} of the other are no pairs")
    try:
        print_differences(arguments, parser)
    except HierCNNError as error:
        parser.error(str(error))


def print_differences(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    pairs = [(Run(flat), Run(other)) for flat, other in zip(arguments.flat, arguments.other, strict=True)]
    for flat, other in pairs:
        if flat.recipe.seed != other.recipe.seed or flat.events[0]["digests"].get("test") != other.events[0]["digests"].get("test"):
            parser.error(f"{flat.path} and {other.path} are no pair: another seed, or other test images")
    first = pairs[0][0]
    reported = [cut for cut in first.cuts if cut.name != "leaf"]
    cut = first.hierarchy.cut(groups=arguments.groups) if arguments.groups is not None or not reported else reported[-1]
    leaf, group = np.mean([np.subtract(class_hits(other, cut), class_hits(flat, cut)) for flat, other in pairs], axis=0)
    rows = [(100 * group[cut.groups == k].mean(), 100 * leaf[cut.groups == k].mean(), name) for k, name in enumerate(cut.names)]
    texts = [[name, f"{of_group:+.1f}", f"{of_leaf:+.1f}"] for of_group, of_leaf, name in sorted(rows, reverse=True)]
    print(markdown_table([["group", "Δ group accuracy, points", "Δ class accuracy, points"], *texts]))
    print(f"\n{(leaf > 1e-9).sum()} classes better, {(leaf < -1e-9).sum()} worse; {len(pairs)} pairs")


if __name__ == "__main__":
    main()
