"""Write manifest.csv (path,label,split) for the Grocery Store data set from its own lists.

    python tools/make_grocery_manifest.py data/grocery

Reads {train,val,test}.txt (path, fine id, coarse id) and the names of hierarchy.csv.
"""

import argparse
import csv
from pathlib import Path


def rows(root: Path):
    """Yield (path, class name, split) of every image."""
    with open(root / "hierarchy.csv", newline="", encoding="utf-8") as file:
        names = {row["fine_id"]: row["fine_name"] for row in csv.DictReader(file)}
    for split in ("train", "val", "test"):
        for line in (root / f"{split}.txt").read_text(encoding="utf-8").splitlines():
            path, fine, _ = (part.strip() for part in line.split(","))
            yield path, names[fine], split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with train.txt, val.txt, test.txt and hierarchy.csv")
    root = parser.parse_args().root
    try:
        listed = list(rows(root))
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing; unpack the data set there first")
    with open(root / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *listed])
    print(f"wrote {root / 'manifest.csv'}: {len(listed)} images")


if __name__ == "__main__":
    main()
