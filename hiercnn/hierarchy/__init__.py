"""What the classes are: an immutable class tree, its builders, cuts and files. Needs numpy, and pydantic where recipes name cuts."""

from hiercnn.hierarchy._build import from_classes, from_edges, from_folders, from_nested, from_rows
from hiercnn.hierarchy._builtin import builtin, builtin_names
from hiercnn.hierarchy._choice import CutChoice, CutSettings, chosen_cuts
from hiercnn.hierarchy._cut import Cut, check_nested
from hiercnn.hierarchy._draw import draw
from hiercnn.hierarchy._io import cut_from_dict, cut_to_dict, from_dict, read_cuts, read_hierarchy, save_hierarchy, to_dict, to_nested
from hiercnn.hierarchy._tree import DISTANCES, Hierarchy
from hiercnn.hierarchy._wordnet import common_hypernyms, from_wordnet

__all__ = [
    "DISTANCES",
    "Cut",
    "CutChoice",
    "CutSettings",
    "Hierarchy",
    "builtin",
    "builtin_names",
    "check_nested",
    "chosen_cuts",
    "common_hypernyms",
    "cut_from_dict",
    "cut_to_dict",
    "draw",
    "from_classes",
    "from_dict",
    "from_edges",
    "from_folders",
    "from_nested",
    "from_rows",
    "from_wordnet",
    "read_cuts",
    "read_hierarchy",
    "save_hierarchy",
    "to_dict",
    "to_nested",
]
