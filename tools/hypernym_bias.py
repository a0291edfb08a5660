"""Do networks learn hypernyms first? Trains recipes over seeds (or reuses the runs), measures every kept moment, prints the claims.

    python tools/hypernym_bias.py cifar100/flat cifar100/branches --seeds 3 --out runs/bias

For each recipe a table of the findings of `hiercnn.dynamics.findings`: mean over the seeds of the value and of what it has to beat, and in
how many seeds it does. A claim is called supported where it holds in every seed. Overrides `key=value` apply to all recipes.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hiercnn import fit
from hiercnn.dynamics import Finding, findings
from hiercnn.errors import HierCNNError
from hiercnn.recipe import Run, dynamics_of_run, load_recipe


def measured(recipe: str, overrides: list[str], seed: int, arguments: argparse.Namespace) -> list[Finding]:
    """Train one seed if that is not done yet, and measure its kept moments."""
    wanted = [*overrides, "checkpoints.keep=log", f"seed={seed}"]
    folder = arguments.out / f"{load_recipe(recipe, wanted).name}-seed{seed}"
    run = fit(recipe, overrides=wanted, run_dir=folder, resume=Run(folder).exists())
    return findings(dynamics_of_run(run, images=arguments.images, probes=arguments.probes).story)


def verdict(seeds: list[Finding]) -> str:
    known = [found.supported for found in seeds if found.supported is not None]
    return f"{'supported' if known and all(known) and len(known) == len(seeds) else 'not supported'}, {sum(known)} of {len(seeds)} seeds"


def rows(recipe: str, seeds: list[list[Finding]]) -> list[list[str]]:
    by_what: dict[tuple[str, str], list[Finding]] = {}
    for finding in (each for findings_of_seed in seeds for each in findings_of_seed):
        by_what.setdefault((finding.claim, finding.what), []).append(finding)
    found = []
    for same in (by_what[key] for key in sorted(by_what, key=lambda key: key[0])):
        values, against = ([getattr(each, key) for each in same] for key in ("value", "against"))
        spread = f" ± {np.round(np.std(values, ddof=1), 12):.2g}" if len(values) > 1 else ""
        found.append(
            [recipe, same[0].claim, same[0].what, f"{np.mean(values):.3g}{spread}", f"{np.mean(against):.3g}", verdict(list(same))]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="recipe files or shipped names, and key=value overrides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bias"), help="folder of the runs")
    parser.add_argument("--images", type=int, default=2000, help="images of train, and of test, to look at")
    parser.add_argument("--no-probes", dest="probes", action="store_false")
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    arguments = parser.parse_args()
    overrides = [text for text in arguments.recipes if "=" in text]
    if arguments.csv is not None and not arguments.csv.parent.is_dir():
        parser.error(f"--csv: there is no folder {arguments.csv.parent}")  # before hours of training
    header, table = ["recipe", "claim", "what", "value", "to beat", "verdict"], []
    try:
        for recipe in (text for text in arguments.recipes if "=" not in text):
            table += rows(recipe, [measured(recipe, overrides, seed, arguments) for seed in range(arguments.seeds)])
    except HierCNNError as error:
        print(f"hypernym_bias: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    shown = Table(*header)
    for row in table:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 180).print(shown)
    if arguments.csv is not None:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *table])


if __name__ == "__main__":
    main()
