"""Decision rules side by side on the test images of runs: how often they are right, how much they say, does `auto` keep its promise.

    python tools/decision_rules.py runs/few/cifar100-flat-seed0 runs/few/cifar100-flat-seed1 --csv rules.csv

Runs of one name are seeds of each other: their mean. Right: the answer is the label or above it. Information: 1 for a class, 0 for the
root. Levels: share of answers at each cut, coarse first. HD@1, HD@5: mean distance (LCA height) of the best classes, and top-1, for rules
that rank classes. hAURC (lower is better): area below risk against coverage of climbing and of argmax.
"""

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hiercnn.errors import HierCNNError
from hiercnn.inference import Decision, describe_answers
from hiercnn.metrics import hierarchical_f, mistakes, risk_coverage
from hiercnn.models import HierarchicalModel
from hiercnn.recipe import Run, rule_of_run, run_scores

RULES = {
    "argmax": {},
    "hie": {},
    "crm": {},
    "threshold": {},
    "top_down": {},
    "climbing": {"threshold": 0.8},
    "auto": {},
}
RANKING = ("argmax", "hie", "crm")
COLUMNS = ("right", "information", "classes", "class right", "hF", "top-1", "HD@1", "HD@5", "severity")


def measured(run: Run) -> dict[str, dict[str, float]]:
    """{rule: {column: value}} on the run's test images, and the shares of the cuts."""
    model, tree = run.load_model(), run.hierarchy
    logits, labels, heads = run_scores(run, model, "test")
    whole = labels < tree.num_classes
    logits, labels, heads = logits[whole], labels[whole], {name: scores[whole] for name, scores in heads.items()}
    found = {}
    for name, options in RULES.items():
        if name == "hie" and not _has_groups(model):
            continue
        rule = rule_of_run(run, model, name, options)
        decision, values = rule(logits, heads), {}
        answers = describe_answers(tree, decision, labels)
        leaf = torch.tensor(tree.heights[decision.nodes.numpy()] == 0)
        values |= {"right": answers.right, "information": answers.information, "classes": answers.classes}
        values["class right"] = float((decision.nodes == rule.leaf_nodes[labels])[leaf].double().mean())
        predicted = torch.tensor([tree.label(tree.names[node]) for node in range(tree.num_nodes)])[decision.nodes]
        values["hF"] = hierarchical_f(predicted, labels, tree)["micro"]["f"]
        if name in RANKING:
            ranked = mistakes(rule.rank(rule.marginals(logits, heads)), labels, tree, ks=(1, 5))
            values |= {"top-1": ranked["top1"], "HD@1": ranked["hd1"], "HD@5": ranked["hd5"], "severity": ranked["severity"]}
        found[name] = values | _levels(run, decision)
    area = risk_coverage(logits, labels, tree)
    found["hAURC"] = {"climbing": area["haurc"], "argmax": area["risk"] / 2, "argmax risk": area["risk"]}
    return found


def _has_groups(model: HierarchicalModel) -> bool:
    return any(cut.name != "leaf" for cut in model.cuts.values())


def _levels(run: Run, decision: Decision) -> dict[str, float]:
    """Share of answers at each cut that is no class."""
    nodes, leaves = decision.nodes.numpy(), run.hierarchy.heights == 0
    cuts = {cut.name: [node for node in cut.nodes if not leaves[node]] for cut in run.cuts if cut.nodes is not None and cut.name != "leaf"}
    return {"at root": float((nodes == 0).mean())} | {f"at {name}": float(np.isin(nodes, own).mean()) for name, own in cuts.items()}


def averaged(seeds: list[Mapping[str, Mapping[str, float]]]) -> list[tuple[str, str, float, float]]:
    """(rule, column, mean, standard deviation) over the runs of one name."""
    rows = []
    for rule in seeds[0]:
        for column in seeds[0][rule]:
            values = [each[rule][column] for each in seeds if each[rule][column] is not None]
            if values:
                rows.append((rule, column, float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")))
    return rows


def shown(name: str, rows: list[tuple[str, str, float, float]], count: int) -> Table:
    levels = list(dict.fromkeys(column for rule, column, *_ in rows if column.startswith("at ")))
    table = Table("rule", *COLUMNS, *levels, title=f"{name}, mean of {count} runs")
    by_rule: dict[str, dict[str, float]] = {}
    for rule, column, mean, _ in rows:
        by_rule.setdefault(rule, {})[column] = mean
    areas = by_rule.pop("hAURC")
    for rule, values in by_rule.items():
        table.add_row(rule, *(_cell(column, values.get(column)) for column in (*COLUMNS, *levels)))
    table.caption = f"hAURC: climbing {areas['climbing']:.4f}, argmax {areas['argmax']:.4f}"
    return table


def _cell(column: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    return f"{value:.2f}" if column in ("HD@1", "HD@5", "severity", "information") else f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs; those of one name are seeds of each other")
    parser.add_argument("--csv", type=Path, help="file to write the numbers to")
    arguments = parser.parse_args()
    by_name: dict[str, list[dict]] = {}
    try:
        for folder in arguments.runs:
            run = Run(folder)
            by_name.setdefault(run.recipe.name, []).append(measured(run))
    except HierCNNError as error:
        print(f"decision_rules: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    console, lines = Console(width=None if sys.stdout.isatty() else 200), []
    for name, seeds in by_name.items():
        rows = averaged(seeds)
        console.print(shown(name, rows, len(seeds)))
        lines += [[name, len(seeds), *row] for row in rows]
    if arguments.csv is not None:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["run", "seeds", "rule", "statistic", "mean", "sd"], *lines])


if __name__ == "__main__":
    main()
