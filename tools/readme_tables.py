"""Rewrite the README's tables from the measurements in tools/results and tools/bench, or check that they agree.

    python tools/readme_tables.py            rewrite README.md
    python tools/readme_tables.py --check    exit 1 if a table is out of date

`tools/results/NAME.json` is a compare.json, as `hiercnn compare … --out DIR` writes it; `tools/bench/step.csv` is what bench_step.py
appends to. In the README a table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path

from hiercnn.compare import cells

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def comparison(name: str) -> str:
    """A compare.json as a markdown table, its conditions below."""
    result = json.loads((ROOT / "tools" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    header, *rows = cells(result)
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1), *(f"| {' | '.join(row)} |" for row in rows)]
    runs, where = result["recipes"][result["baseline"]]["runs"], result["environment"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    sizes = ", ".join(f"{count:,} {split}" for split, count in result["splits"].items())
    threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    versions = ", ".join(f"{package} {where['versions'][package]}" for package in ("torch", "timm"))
    conditions = [
        f"{result['measured_on'].capitalize()} accuracy, mean ± sd over seed{'s' if len(runs) > 1 else ''} {seeds}",
        f"paired difference{' with its 95 % t interval' if len(runs) > 1 else ''}",
        f"{sizes} images, {result['epochs']} epochs",
        f"{where['device']}, {threads}, {where['precision']}, {versions}, commit {where['git'] or 'unknown'}",
    ]
    lines.append("\n" + "; ".join(conditions) + ".")
    return "\n".join(lines)


def step() -> str:
    """The last row of each kind in tools/bench/step.csv."""
    with open(ROOT / "tools" / "bench" / "step.csv", newline="", encoding="utf-8") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    lines = ["| ratio | median [quartiles] | conditions |", "|---|---:|---|"]
    for what, row in rows.items():
        setting = (
            f"{row['backbone']}, {row['size']} px, batch {row['batch']}, {row['rounds']} rounds, {row['device']}, {row['threads']} threads"
        )
        note = f"; {row['note']}" if row["note"] else ""
        lines.append(
            f"| {what} | {row['median']} [{row['q25']}, {row['q75']}] | {setting}, torch {row['torch']}, commit {row['commit']}{note} |"
        )
    return "\n".join(lines)


def rewritten(readme: str) -> str:
    """The README with every marked table made anew."""
    return MARKED.sub(lambda match: match[1] + "\n" + (step() if match[2] == "step" else comparison(match[2])) + "\n\n" + match[3], readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = rewritten(before)
    if check and before != after:
        sys.exit("README.md: tables are out of date; run python tools/readme_tables.py")
    if not check:
        path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
