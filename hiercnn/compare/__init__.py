"""Recipes × seeds → paired differences, convergence and gap, in compare.json and a table."""

from hiercnn.compare._compare import compare, summarise
from hiercnn.compare._statistics import epochs_to_target, paired_difference, train_val_gap
from hiercnn.compare._table import cells, table

__all__ = ["cells", "compare", "epochs_to_target", "paired_difference", "summarise", "table", "train_val_gap"]
