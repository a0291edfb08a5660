"""Rewrite the tables of README.md and the page recipes/RESULTS.md from the measurements in tools/results, or check that they agree.

    python tools/result_tables.py            rewrite both
    python tools/result_tables.py --check    exit 1 if one is out of date
    python tools/result_tables.py --figures  also draw the pictures beside the measurements (needs Chrome or Chromium)

`tools/results/NAME.json` is a compare.json, as `hiercnn compare … --out DIR` writes it, and `NAME.md` what was asked and learned: a
title, a paragraph or more; `GOALS.md` comes first. `tools/bench/step.csv` is what bench_step.py appends to, `train.csv` what
bench_train.py does, `ops.csv` what bench_ops.py does; in tools/results, `agreement.csv` is what tree_agreement.py writes,
`decisions.csv` what decision_rules.py does, `faults.csv` what label_faults.py does, and `bias/SETTING.csv` what hypernym_bias.py does.
`wins.csv` names the recipes that are ahead of flat, with the controls that they must beat. In the README a table stands between
`<!-- table NAME -->` and `<!-- end -->`.
"""

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiercnn.compare import budget_cells, cells, difference_cells, epochs, figures, markdown_table, search_cells
from hiercnn.recipe import shipped_recipes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "tools" / "results"
PICTURES = {"differences": "Paired differences", "steps": "Accuracy from level to level"}  # those that the page shows, by name
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    """A committed compare.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def comparison(name: str) -> str:
    """The main table of a compare.json, its conditions below."""
    result = read(name)
    return f"{markdown_table(cells(result))}\n\n{conditions(result)}"


def conditions(result: dict[str, Any]) -> str:
    """One sentence: what was measured, on what, with what."""
    runs, where = result["recipes"][result["baseline"]]["runs"], result["environment"]
    several, seeds = len(runs) > 1, ", ".join(str(run["seed"]) for run in runs)
    places = [one["environment"]["git"] for row in result["recipes"].values() for one in row["runs"]]
    commits = sorted({f"commit {place}" if place else "installed from a clone" for place in places})
    threads = sorted({one["environment"]["threads"] for row in result["recipes"].values() for one in row["runs"]})
    counts = " or ".join(map(str, threads))
    parts = [
        f"{result['measured_on'].capitalize()} accuracy, mean ± sd over seed{'s' if several else ''} {seeds}",
        f"paired difference{' with its 95 % t interval' if several else ''}",
        f"{', '.join(f'{sizes(result, split)} {split}' for split in result['splits'])} images, {epochs(result)} epochs",
        f"{where['device']}, {counts} thread{'' if counts == '1' else 's'}, {where['precision']}",
        ", ".join(f"{package} {where['versions'][package]}" for package in ("torch", "timm")),
        ", ".join(commits),
    ]
    return "; ".join(parts) + "."


def sizes(result: dict[str, Any], split: str) -> str:
    """Images of a split: of all recipes, or from the fewest to the most."""
    counts = sorted({row.get("splits", result["splits"])[split] for row in result["recipes"].values()})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}–{counts[-1]:,}"


def step() -> str:
    """The last row of each kind in tools/bench/step.csv."""
    with open(ROOT / "tools" / "bench" / "step.csv", newline="", encoding="utf-8") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    lines, places = [["ratio", "median [quartiles]", "rounds", "note"]], {}
    for what, row in rows.items():
        lines.append([what, f"{row['median']} [{row['q25']}, {row['q75']}]", row["rounds"], row["note"]])
        setting = f"{row['backbone']}, {row['size']} px, batch {row['batch']}, {row['device']}, {row['threads']} threads"
        places[f"{setting}, torch {row['torch']}, commit {row['commit']}"] = None
    return f"{markdown_table(lines)}\n\n{'; '.join(places)}."


def train() -> str:
    """The last row of each kind and model in tools/bench/train.csv."""
    with open(ROOT / "tools" / "bench" / "train.csv", newline="", encoding="utf-8") as file:
        rows = {(row["what"], row["backbone"]): row for row in csv.DictReader(file)}
    lines, places = [["ratio", "model", "median [quartiles]", "rounds", "note"]], {}
    for row in rows.values():
        model = f"{row['backbone']}, {row['size']} px, batch {row['batch']}"
        lines.append([row["what"], model, f"{row['median']} [{row['q25']}, {row['q75']}]", row["rounds"], row["note"]])
        threads = f"{row['threads']} thread{'' if row['threads'] == '1' else 's'}"
        places[f"{row['device']}, {threads}, torch {row['torch']}, commit {row['commit']}"] = None
    return f"{markdown_table(lines)}\n\n{'; '.join(places)}."


def ops(batch: int = 256) -> str:
    """What operators cost, by number of classes, from the last rows of tools/bench/ops.csv on a CPU and on a GPU."""
    with open(ROOT / "tools" / "bench" / "ops.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dtype"] == "float32" and int(row["batch"]) == batch]
    parts = []
    for device in dict.fromkeys(row["device"] for row in rows):
        mine = {(row["what"], int(row["classes"])): row for row in rows if row["device"] == device}
        classes = sorted({size for _, size in mine})
        lines = [["÷ F.cross_entropy (milliseconds)", *(f"C = {size:,}" for size in classes)]]
        for what in dict.fromkeys(what for what, _ in mine):
            lines.append([what, *(_cost(mine.get((what, size))) for size in classes)])
        last = list(mine.values())[-1]
        where = f"{device}, {last['threads']} threads, float32, B = {batch}, torch {last['torch']}, commit {last['commit']}"
        parts += [markdown_table(lines), f"Forward and backward, medians side by side in one process; {where}."]
    return "\n\n".join(parts)


def _cost(row: dict[str, str] | None) -> str:
    return "–" if row is None else f"{_short(row['ratio_to_cross_entropy'])} ({_short(row['median_ms'])})"


def _short(number: str) -> str:
    return f"{float(number):,.0f}" if float(number) >= 100 else f"{float(number):.2g}"


def agreement() -> str:
    """How well clusterings of runs agree with trees, from tools/results/agreement.csv: means over runs."""
    with open(RESULTS / "agreement.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    trees, runs = (list(dict.fromkeys(row[key] for row in rows)) for key in ("tree", "run"))
    header = ["clustering", *(f"{tree}: {what}" for tree in trees for what in ("correlation", "ARI")), "largest group", "largest p"]
    lines = [header]
    for way in dict.fromkeys((row["source"], row["linkage"], row["metric"]) for row in rows):
        ours = [row for row in rows if (row["source"], row["linkage"], row["metric"]) == way]
        line = [" ".join(filter(None, way))]
        for tree in trees:
            mine = [row for row in ours if row["tree"] == tree]
            line += [_mean([float(row[key]) for row in mine]) for key in ("pearson", "ari")]
        largest = statistics.fmean(float(row["largest_group"]) for row in ours)
        lines.append([*line, f"{largest:.0f}", f"{max(float(row['p']) for row in ours):.3f}"])
    cuts = ", ".join(f"{tree} {next(row['groups'] for row in rows if row['tree'] == tree)}" for tree in trees)
    where = f"{len(runs)} runs ({rows[0]['backbone']}), commit {rows[0]['commit']}"
    said = f"Mean ± sd of {where}; p of Mantel's test; ARI of partitions into as many groups as a cut has: {cuts}."
    return f"{markdown_table(lines)}\n\n{said}"


def decisions() -> str:
    """Decision rules side by side, from tools/results/decisions.csv."""
    with open(RESULTS / "decisions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shares = {"right": "right", "classes": "answers that are classes", "class right": "of these right"}
    plain = {"information": "information", "HD@1": "HD@1", "HD@5": "HD@5"}
    lines, notes = [["run", "rule", *shares.values(), *plain.values()]], []
    for run in dict.fromkeys(row["run"] for row in rows):
        mine = {(row["rule"], row["statistic"]): row for row in rows if row["run"] == run}
        for rule in dict.fromkeys(rule for rule, _ in mine if rule != "hAURC"):
            found = [mine.get((rule, name)) for name in (*shares, *plain)]
            cells = [_share(each) for each in found[: len(shares)]] + [_plain(each) for each in found[len(shares) :]]
            lines.append([run, rule, *cells])
        area = [float(mine["hAURC", name]["mean"]) for name in ("climbing", "argmax")]
        notes.append(f"{run} {area[0]:.3f} ({100 * (area[0] / area[1] - 1):+.1f} % of argmax)")
    counts = ", ".join(sorted({row["seeds"] for row in rows}))
    said = f"Test images, mean ± sd of {counts} seeds. hAURC of climbing: {'; '.join(notes)}."
    return f"{markdown_table(lines)}\n\n{said}"


def _share(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    return f"{100 * float(row['mean']):.1f} %" + ("" if row["sd"] == "nan" else f" ± {100 * float(row['sd']):.1f}")


def _plain(row: dict[str, str] | None) -> str:
    return "" if row is None else f"{float(row['mean']):.2f}"


def bias(cut: str = "20 groups") -> str:
    """Claims about what is learnt when and where, from tools/results/bias/SETTING.csv, as hypernym_bias.py writes them, at one cut."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for file in sorted((RESULTS / "bias").glob("*.csv")):
        with open(file, newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                setting = f"{file.stem.replace('-', ', ').replace('_a_', ' a ')}: {row['recipe'].removeprefix('cifar100/')}"
                count = re.search(r"\d+ of \d+", row["verdict"]).group()
                found.setdefault((row["claim"], row["what"]), {})[setting] = f"{row['value']} / {row['to beat']} ({count})"
    other = re.compile(r"\b\d+ groups")
    kept = {key: cells for key, cells in found.items() if key[0] == "A2" or cut in key[1] or not other.search(key[1])}
    settings = list(dict.fromkeys(setting for cells in kept.values() for setting in cells))
    lines = [["claim", "number", *settings], *([*key, *(cells.get(setting, "") for setting in settings)] for key, cells in kept.items())]
    said = "Value / what it has to beat (seeds in which it does); mean ± sd over seeds; times in epochs."
    return f"{markdown_table(lines)}\n\n{said}"


def faults() -> str:
    """What of injected faults the detectors find, from tools/results/faults.csv: precision, mean over seeds, a column a setting."""
    with open(RESULTS / "faults.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["detector"].endswith("adjusted")]  # these do worse
    settings, lines, said = list(dict.fromkeys(row["setting"] for row in rows)), [], []
    for detector, fault in dict.fromkeys((row["detector"], row["fault"]) for row in rows):
        line = [detector, fault]
        for setting in settings:
            mine = [row for row in rows if (row["detector"], row["fault"], row["setting"]) == (detector, fault, setting)]
            line.append(f"{_mean([float(row['precision']) for row in mine])} ({_mean_alone(mine)})" if mine else "")
        lines.append(line)
    for setting in settings:
        mine = [row for row in rows if row["setting"] == setting]
        right = _mean(list({row["seed"]: float(row["accuracy"]) for row in mine if row["experiment"] == "labels"}.values()))
        places = "; ".join(sorted({f"{row['machine']}, commit {row['commit']}" for row in mine}))
        seeds = ", ".join(sorted({row["seed"] for row in mine}))
        said.append(f"{setting}: {int(mine[0]['images']):,} images, seeds {seeds}, accuracy {right}, {places}")
    table = markdown_table([["detector", "fault", *settings], *lines])
    return f"{table}\n\nPrecision among as many findings as there are faults, mean ± sd (average precision). {'. '.join(said)}."


def _mean_alone(rows: list[dict[str, str]]) -> str:
    return f"{statistics.fmean(float(row['average precision']) for row in rows):.2f}"


def _mean(values: list[float]) -> str:
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{sd}"


def wins() -> str:
    """Recipes that are ahead of flat, from tools/results/wins.csv, each with the best of its controls, and commands that repeat them."""
    with open(RESULTS / "wins.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines, commands = [["setting", "recipe", "leaf − flat", "groups − flat", "best control: leaf; groups", "HD@1", "seeds", "time"]], []
    for row in rows:
        result = read(row["result"])
        flat, ours = (result["recipes"][name] for name in (result["baseline"], row["recipe"]))
        control, measured = best_control(row["controls"])
        hd1 = ours["difference"]["hd1"]["mean"] / flat["hd1"]["mean"]
        minutes = sum(run["seconds"]["train"] for each in (flat, ours) for run in each["runs"]) / 60
        leaf, groups = both(ours, result["levels"])
        theirs = f"{'; '.join(both(measured, result['levels']))} ({control}, {len(measured['runs'])} seeds)"
        numbers = [leaf, groups, theirs, f"{100 * hd1:+.1f} %", str(len(ours["runs"])), f"{minutes:.0f} min"]
        lines.append([row["setting"], row["recipe"], *numbers])
        commands.append(command([result["baseline"], row["recipe"], control], ours["runs"]))
    said = (
        "Points of test accuracy with 95 % t intervals of paired differences; groups are those of the coarsest level"
        " (8 of CIFAR-100, 3 of the others);"
        " time to train recipe and flat on one core, all seeds. In this order, with the control:"
    )
    return "\n\n".join([markdown_table(lines), said, "```sh\n" + "\n".join(commands) + "\n```"])


def best_control(controls: str) -> tuple[str, dict[str, Any]]:
    """Of `RESULT/RECIPE RESULT/RECIPE …` that which is furthest ahead of flat: its name and its row."""
    rows = {name: read(result)["recipes"][name] for result, name in (each.split("/") for each in controls.split())}
    return max(rows.items(), key=lambda item: item[1]["difference"]["leaf"]["mean"])


def both(row: dict[str, Any], levels: Sequence[str]) -> list[str]:
    """The paired differences of a recipe's accuracy at the leaf and at the coarsest level in points, with their intervals."""
    cells = []
    for level in ("leaf", levels[0]):
        measured = row["difference"][level]
        low, high = (100 * bound for bound in measured["interval"])
        cells.append(f"{100 * measured['mean']:+.1f} [{low:+.1f}, {high:+.1f}]")
    return cells


def command(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    """What trains these recipes with the settings, the precision and as many seeds as those runs, whose first name their command has."""
    shipped = {name.replace("/", "-").replace("_", "-"): name for name in shipped_recipes()}
    environment = runs[0]["environment"]
    apart = ("seed=", "logging.", "train.precision=", "-")
    own = [each for each in environment["command"][3:] if "=" in each and not each.startswith(apart)]
    first = [f"seed={runs[0]['seed']}"] if runs[0]["seed"] else []
    precision = f"train.precision={environment['precision']}"  # what `auto` is depends on the machine
    return " ".join(["hiercnn compare", *(shipped[name] for name in names), *own, precision, *first, f"--seeds {len(runs)}"])


def rewritten(readme: str) -> str:
    """The README with every marked table made anew."""
    made = {
        "step": step,
        "train": train,
        "ops": ops,
        "agreement": agreement,
        "decisions": decisions,
        "bias": bias,
        "faults": faults,
        "wins": wins,
    }
    return MARKED.sub(lambda match: f"{match[1]}\n{made[match[2]]() if match[2] in made else comparison(match[2])}\n\n{match[3]}", readme)


def results_page() -> str:
    """Every experiment: what was asked, what came out, what was learned."""
    parts = ["# Results", "Made by `python tools/result_tables.py` from tools/results; failures included."]
    parts.append((RESULTS / "GOALS.md").read_text(encoding="utf-8").strip())
    for path in sorted(RESULTS.glob("*.json")):
        result = read(path.stem)
        parts += [path.with_suffix(".md").read_text(encoding="utf-8").strip(), configuration(result), markdown_table(cells(result))]
        if len(result["recipes"]) > 1 and len(result["recipes"][result["baseline"]]["runs"]) > 1:
            parts += [
                "Paired differences with 95 % t intervals; accuracy in points, gap in nats:",
                markdown_table(difference_cells(result)),
            ]
        if result.get("budgets"):
            parts += ["Leaf accuracy with complete schedules of a share of the epochs E:", markdown_table(budget_cells(result))]
        if result.get("search"):
            parts += ["Equal tuning, on val:", markdown_table(search_cells(result))]
        pictures = {key: RESULTS / f"{path.stem}-{key}.svg" for key in PICTURES}
        parts += [f"![{PICTURES[key]}](../tools/results/{file.name})" for key, file in pictures.items() if file.exists()]
        parts.append(conditions(result))
    return "\n\n".join(parts) + "\n"


def draw() -> None:
    """Draw the pictures of every comparison of several seeds."""
    for path in sorted(RESULTS.glob("*.json")):
        result = read(path.stem)
        if len(result["recipes"][result["baseline"]]["runs"]) > 1:
            drawn = figures(result)
            for key in PICTURES:
                drawn[key].write_image(RESULTS / f"{path.stem}-{key}.svg")


def configuration(result: dict[str, Any]) -> str:
    """What all recipes of a comparison share, and what each changes."""
    base = result["recipes"][result["baseline"]]["recipe"]
    data = {key: base["data"].get(key) for key in ("image_size", "per_class", "imbalance", "label_noise", "coarse_labels")}
    said = ", ".join(f"{key} {_inline(value)}" for key, value in data.items() if value is not None)
    optim = (
        f"{base['optim']['name']}, lr {base['optim']['lr']:g}, weight decay {base['optim']['weight_decay']:g}, {base['schedule']['name']}"
    )
    lines = [f"`{base['model']['backbone']}`, {base['data']['name']} ({said}), batch {base['data']['batch_size']}, {optim}."]
    for name, row in result["recipes"].items():
        if name != result["baseline"]:
            lines.append(f"- {name}: {', '.join(_change(row['recipe'], key) for key in row['differs_in']) or 'the same'}")
    return "\n".join(lines)


def _change(recipe: dict[str, Any], key: str) -> str:
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if key == "model.heads":
        return "heads " + " + ".join(_head(head) for head in value)
    return f"{key} {_inline(value)}"


def _head(head: dict[str, Any]) -> str:
    kept = {key: head[key] for key in ("random", "stop_gradient", "feed_forward", "distill", "conv_blocks") if head.get(key)}
    return f"{_inline(head['cut'])} at {head['stage']}, weight {_inline(head['weight'])}" + "".join(
        f", {key} {_inline(v)}" for key, v in kept.items()
    )


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items() if item is not None and item is not False) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of date")
    parser.add_argument("--figures", action="store_true", help="also draw the pictures; needs Chrome or Chromium")
    arguments = parser.parse_args()
    if arguments.figures:
        draw()
    check = arguments.check
    readme, page = ROOT / "README.md", ROOT / "recipes" / "RESULTS.md"
    wanted = {readme: rewritten(readme.read_text(encoding="utf-8")), page: results_page()}
    for path, text in wanted.items():
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"{path.relative_to(ROOT)} is out of date; run python tools/result_tables.py")
        if not check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
