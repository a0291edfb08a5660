"""Make the hierarchies that come with the package: python tools/make_hierarchy.py NAME... --out hiercnn/hierarchy/builtin

cifar10, fashion_mnist and synthetic need nothing, cifar100 needs --cifar100-classes, cifar100_semantic needs --semantic-tree and
imagenet1k needs --imagenet-closure and WordNet (python -m nltk.downloader wordnet).
"""

import argparse
import json
import re
import sys
from pathlib import Path

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, from_dict, from_nested, from_wordnet, read_hierarchy, save_hierarchy, to_dict

FASHION = "Class names: H. Xiao et al., Fashion-MNIST, arXiv:1708.07747, 2017"
CIFAR = "Class names: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
ZHU_BAIN = "Groups: X. Zhu and M. Bain, B-CNN: Branch Convolutional Neural Network for Hierarchical Classification, arXiv:1709.09890, 2017"
BARZ_DENZLER = "B. Barz and J. Denzler, Hierarchy-based Image Embeddings for Semantic Image Retrieval, WACV 2019"
SEO_SHIN = (
    "Groups: Y. Seo and K. Shin, Hierarchical convolutional neural networks for fashion image classification, Expert Syst. Appl. 116, 2019"
)
FACTS = "Class names and groups alone; no images and no text of the cited works"

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_TREE = {
    "transport": ["airplane", "ship", {"road_vehicle": ["automobile", "truck"]}],
    "animal": ["bird", "frog", {"pet": ["cat", "dog"]}, {"hoofed_animal": ["deer", "horse"]}],
}

FASHION_MNIST_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FASHION_MNIST_TREE = {
    "clothes": [{"tops": ["T-shirt/top", "Pullover", "Shirt"]}, "Trouser", "Dress", "Coat"],
    "goods": ["Bag", {"shoes": ["Sandal", "Sneaker", "Ankle boot"]}],
}

CIFAR100_GROUPS = {  # the 20 superclasses, by their place in the alphabet
    "aquatic_vertebrates": (0, 1),
    "plants": (2, 4, 17),
    "household_objects": (3, 5, 6),
    "invertebrates": (7, 13),
    "land_vertebrates": (8, 11, 12, 15, 16),
    "outdoor_scenes": (9, 10),
    "humans": (14,),
    "vehicles": (18, 19),
}

SEMANTIC_NOTICE = """\
Derived from WordNet 3.0, Copyright 2006 by Princeton University (its licence stands in imagenet1k.json). The tree:

MIT License. Copyright (c) 2020 Björn Barz

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files \
(the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, \
publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, \
subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF \
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE \
FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION \
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def cifar10() -> Hierarchy:
    """2 / 7 / 10 groups; a group of one class is that class."""
    return from_nested(CIFAR10_TREE, CIFAR10_CLASSES, meta={"source": f"{CIFAR}. {ZHU_BAIN}", "notice": FACTS})


def fashion_mnist() -> Hierarchy:
    """2 / 6 / 10 groups; a group of one class is that class."""
    return from_nested(FASHION_MNIST_TREE, FASHION_MNIST_CLASSES, meta={"source": f"{FASHION}. {SEO_SHIN}", "notice": FACTS})


def cifar100(classes_csv: Path) -> Hierarchy:
    """8 / 20 / 100 groups, from a CSV with the columns class and superclass in the order of the class ids."""
    official = read_hierarchy(classes_csv, columns=["superclass", "class"])
    superclasses = sorted(official.names[node] for node in official.children(0))
    if (len(superclasses), official.num_classes) != (20, 100):
        raise HierarchyError(f"{classes_csv}: {len(superclasses)} superclasses, {official.num_classes} classes; CIFAR-100 has 20 and 100")

    def members(superclass: str) -> list[str]:
        return [official.classes[c] for c in official.leaves(official.node(superclass))]

    tree = {group: {superclasses[i]: members(superclasses[i]) for i in places} for group, places in CIFAR100_GROUPS.items()}
    return from_nested(tree, official.classes, meta={"source": f"{CIFAR}. {ZHU_BAIN}", "notice": FACTS})


def cifar100_semantic(edges_csv: Path) -> Hierarchy:
    """The tree of Barz and Denzler, from a parent,child CSV; classes by name, which is the order of the class ids."""
    tree = read_hierarchy(edges_csv)
    return _with_meta(tree.with_classes(sorted(tree.classes)), {"source": BARZ_DENZLER, "notice": SEMANTIC_NOTICE})


def imagenet1k(wnids_file: Path) -> Hierarchy:
    """The WordNet tree of the 1000 classes, from JSON with a list of wnids (or one under "leaves") or from plain text."""
    tree = from_wordnet(_wnids(wnids_file), parent_rule="longest")
    from nltk.corpus import wordnet

    notice = "\n".join(re.sub(r"^ *\d+ *", "", line).rstrip() for line in wordnet.license().splitlines())  # the lines are numbered
    return _with_meta(tree, tree.meta | {"notice": notice.strip()})


def synthetic() -> Hierarchy:
    """3 / 9 / 36 groups: the rendered shapes of hiercnn.data."""
    from hiercnn.data._synthetic import CLASSES, TREE

    meta = {"source": "The rendered shapes of hiercnn.data: family, shape, fill", "notice": "Part of hiercnn"}
    return from_nested({"shapes": TREE}, CLASSES, meta=meta)


def _wnids(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HierarchyError(f"cannot read {path}: {error.strerror}") from None
    try:
        document = json.loads(text)
    except ValueError:
        return text.split()
    return document.get("leaves", []) if isinstance(document, dict) else document


def _with_meta(tree: Hierarchy, meta: dict[str, object]) -> Hierarchy:
    return from_dict(to_dict(tree) | {"meta": meta})


MAKERS = {
    "cifar10": (cifar10, None),
    "cifar100": (cifar100, "cifar100_classes"),
    "cifar100_semantic": (cifar100_semantic, "semantic_tree"),
    "fashion_mnist": (fashion_mnist, None),
    "imagenet1k": (imagenet1k, "imagenet_closure"),
    "synthetic": (synthetic, None),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(MAKERS), metavar="NAME", help=", ".join(MAKERS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for NAME.json")
    parser.add_argument("--cifar100-classes", type=Path, metavar="CSV", help="columns class and superclass, in the order of the class ids")
    parser.add_argument("--semantic-tree", type=Path, metavar="CSV", help="columns parent and child: the tree of Barz and Denzler")
    parser.add_argument("--imagenet-closure", type=Path, metavar="FILE", help='JSON or text with the 1000 wnids; of JSON, "leaves" counts')
    options = parser.parse_args(arguments)
    for name in options.names:
        make, needs = MAKERS[name]
        given = [getattr(options, needs)] if needs else []
        if given == [None]:
            parser.error(f"{name} needs --{needs.replace('_', '-')} (see --help)")
        try:
            tree = make(*given)
            save_hierarchy(tree, options.out / f"{name}.json")
        except HierarchyError as error:
            parser.error(str(error))
        print(f"{options.out / name}.json: {tree!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
