"""Recipes × seeds → paired differences, convergence, overfitting and cost: compare.json, tables and figures."""

from hiercnn.compare._budgets import shortened
from hiercnn.compare._compare import compare
from hiercnn.compare._figures import figures, save_figures
from hiercnn.compare._statistics import area_under_curve, curve, epochs_to_target, gaps_at_equal_nll, paired_difference, train_val_gap
from hiercnn.compare._summary import summarise
from hiercnn.compare._table import (
    budget_cells,
    cells,
    csv_text,
    difference_cells,
    epochs,
    markdown,
    markdown_table,
    notes,
    search_cells,
    seeds,
    table,
    title,
)

__all__ = [
    "area_under_curve",
    "budget_cells",
    "cells",
    "compare",
    "csv_text",
    "curve",
    "difference_cells",
    "epochs",
    "epochs_to_target",
    "figures",
    "gaps_at_equal_nll",
    "markdown",
    "markdown_table",
    "notes",
    "paired_difference",
    "save_figures",
    "search_cells",
    "seeds",
    "shortened",
    "summarise",
    "table",
    "title",
    "train_val_gap",
]
