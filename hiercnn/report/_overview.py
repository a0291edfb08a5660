"""What was run, and what the numbers support: the tables of `hiercnn compare` and plain sentences about them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hiercnn.compare import paired_difference, summarise
from hiercnn.dynamics import hypernym_scores
from hiercnn.errors import RecipeError, shorten
from hiercnn.hierarchy import Cut, Hierarchy
from hiercnn.recipe import Run

RANDOM = 20  # random partitions of the same group sizes beside each cut
CONTROLS = ("deep supervision", "random groups", "late heads")
ROLES = ("flat", "hierarchical loss", "branches", *CONTROLS)  # in the order of the table


class Sentence(NamedTuple):
    """What the numbers say, and whether that speaks for the claim, against it, or leaves it open."""

    tone: Literal["yes", "no", "open"]
    text: str


class Comparison(NamedTuple):
    """Finished runs as `hiercnn.compare` sums them up (None: there are none), which these are, and what was left out."""

    result: dict[str, Any] | None
    runs: dict[str, list[Run]]
    notes: list[str]


def comparison(runs: Sequence[Run]) -> Comparison:
    """Set the finished runs side by side, by recipe and seed.

    Raises:
        RecipeError: Two runs of one recipe and seed; runs of other classes or other images.
    """
    named: dict[str, dict[int, Run]] = {}
    for run in runs:
        recipe = run.recipe
        other = named.setdefault(recipe.name, {}).setdefault(recipe.seed, run)
        if other is not run:
            raise RecipeError(f"{other.path} and {run.path} are both '{recipe.name}' with seed {recipe.seed}; name one of them")
    unfinished = [run.path.name for run in runs if not run.finished]
    notes = [f"Not finished, so in no table: {', '.join(unfinished)}."] if unfinished else []
    finished = {name: {seed: run for seed, run in seeds.items() if run.finished} for name, seeds in named.items()}
    finished = {name: seeds for name, seeds in finished.items() if seeds}
    if not finished:
        return Comparison(None, {}, notes)
    common = sorted(set.intersection(*(set(seeds) for seeds in finished.values())))
    if not common:
        return Comparison(None, {}, [*notes, "The runs have no seed in common, so they are not compared."])
    left_out = [run.path.name for seeds in finished.values() for seed, run in seeds.items() if seed not in common]
    if left_out:
        notes.append(f"Their seed is not that of every recipe, so in no table: {', '.join(left_out)}.")
    paired = {name: [seeds[seed] for seed in common] for name, seeds in finished.items()}
    if len({run.hierarchy.digest for listed in paired.values() for run in listed}) > 1:
        notes.append("The runs have different trees; accuracy is compared at the levels that they share.")
    paired = dict(sorted(paired.items(), key=lambda item: ROLES.index(role(item[1][0].recipe.plain()))))
    result = summarise(paired, [listed[0].recipe for listed in paired.values()])
    return Comparison(result, paired, notes)


def check_same_classes(runs: Sequence[Run]) -> None:
    """Raise RecipeError unless all runs have the same classes, in the same order."""
    first = runs[0]
    for run in runs[1:]:
        if run.hierarchy.classes != first.hierarchy.classes:
            strange = set(run.hierarchy.classes) ^ set(first.hierarchy.classes)
            which = f": only one of them has {shorten(sorted(strange), 4)}" if strange else " in another order"
            raise RecipeError(f"{first.path} and {run.path} cannot share a report, they have other classes{which}; make one for each")


def role(recipe: Mapping[str, Any]) -> str:
    """What a recipe is in a comparison: flat, branches, or one of the controls."""
    heads = recipe["model"]["heads"]
    if not heads:
        return "flat" if recipe["loss"]["name"] == "cross_entropy" else "hierarchical loss"
    if all(head["cut"] == "leaf" for head in heads):
        return "deep supervision"
    if all(head.get("random", False) is not False for head in heads):
        return "random groups"
    return "late heads" if all(head["stage"] == "late" for head in heads) else "branches"


def sentences(result: Mapping[str, Any]) -> list[Sentence]:
    """What a comparison supports, and what it does not."""
    if len(result["recipes"]) < 2:
        return [Sentence("open", "One recipe alone shows how it went; whether anything helped needs a flat twin beside it.")]
    base, found = result["baseline"], []
    for name, row in result["recipes"].items():
        if name != base:
            whole = role(row["recipe"]) not in CONTROLS
            found += _against_baseline(name, base, row, result["levels"])[: None if whole else 1]
    found += _against_controls(result)
    if result["convergence"] != "anytime":
        text = (
            "Curves before the end are those of one schedule: that a line rises earlier does not show faster convergence; --budgets does."
        )
        found.append(Sentence("open", text))
    seeds = len(result["recipes"][base]["runs"])
    if seeds < 5:
        found.append(Sentence("open", f"{_count(seeds, 'seed')}: too few for a claim; five or more are needed."))
    return found


def blocks_sentences(confusion: np.ndarray, tree: Hierarchy, cuts: Sequence[Cut]) -> list[Sentence]:
    """Whether confusions stay in the groups of each cut more than in random groups of the same sizes (claim A1)."""
    if np.trace(confusion) == confusion.sum():
        return [Sentence("open", "There is no error, so no pattern in errors.")] if cuts else []
    found = []
    for cut in cuts:
        own = hypernym_scores(confusion, cut.groups)
        random = [hypernym_scores(confusion, tree.random_like(cut, seed).groups).lift for seed in range(RANDOM)]
        high = float(np.quantile(random, 0.95))
        more = "more" if own.lift > high else "not more"
        text = f"Errors stay in their group of {cut.name} {100 * own.residual:.0f} % of the time, {own.lift:.1f} times as often as evenly"
        text += f" drawn errors; that is {more} than in random groups of the same sizes (95 % of {RANDOM}: up to {high:.1f} times)."
        found.append(Sentence("yes" if own.lift > high else "no", text))
    return found


def _against_baseline(name: str, base: str, row: Mapping[str, Any], levels: Sequence[str]) -> list[Sentence]:
    found = []
    for level in dict.fromkeys(("leaf", levels[0])):
        tone, word = _judged(row["difference"][level])
        where = "the leaf" if level == "leaf" else level
        found.append(Sentence(tone, f"{name} {word} {base} at {where}: {_points(row['difference'][level])}."))
    gap = row["gap_at_equal_nll"]
    if gap is not None and gap["difference"]["interval"] is not None:
        low, high = gap["difference"]["interval"]
        word = "overfits less than" if high < 0 else "overfits more than" if low > 0 else "is not told apart in overfitting from"
        numbers = f"{gap['difference']['mean']:+.2f} [{low:+.2f}, {high:+.2f}] nats of val − train NLL at equal train NLL"
        found.append(Sentence("yes" if high < 0 else "no" if low > 0 else "open", f"{name} {word} {base}: {numbers}."))
    return found


def _against_controls(result: Mapping[str, Any]) -> list[Sentence]:
    """Whether a gain of branches may be credited to the hierarchy."""
    roles = {name: role(row["recipe"]) for name, row in result["recipes"].items()}
    branches = [name for name, what in roles.items() if what == "branches"]
    controls = {name: what for name, what in roles.items() if what in CONTROLS}
    if branches and not controls:
        missing = "No control (heads on leaf labels, on random groups, on the last stage) is among the runs"
        return [Sentence("open", f"{missing}: no gain may be credited to the hierarchy.")]
    found = []
    for name in branches:
        for control, what in controls.items():
            ours, theirs = ([run["accuracy"]["leaf"] for run in result["recipes"][one]["runs"]] for one in (name, control))
            difference = paired_difference(ours, theirs)
            tone, word = _judged(difference)
            credit = {"yes": "more than the control explains", "no": "the control explains more", "open": "the control explains as much"}
            gained = _judged(result["recipes"][name]["difference"]["leaf"])[0] == "yes"
            end = f"; {credit[tone]}" if gained and difference["interval"] is not None else ""
            found.append(Sentence(tone, f"{name} {word} its control {control} ({what}) at the leaf: {_points(difference)}{end}."))
    return found


def _judged(difference: Mapping[str, Any]) -> tuple[str, str]:
    """Tone and verb of a paired difference in accuracy."""
    if difference["interval"] is None:
        return "open", "stands beside"
    low, high = difference["interval"]
    return ("yes", "is ahead of") if low > 0 else ("no", "is behind") if high < 0 else ("open", "is not told apart from")


def _points(difference: Mapping[str, Any]) -> str:
    text = f"{100 * difference['mean']:+.1f}"
    if difference["interval"] is None:
        return f"{text} points, one pair of runs, so no interval"
    low, high = (100 * end for end in difference["interval"])
    return f"{text} [{low:+.1f}, {high:+.1f}] points, {_count(difference['pairs'], 'pair')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
