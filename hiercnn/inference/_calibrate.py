"""A temperature and a threshold of climbing with which a promised share of answers is right: `calibrate`.

An image's answer goes up as θ grows, so it is wrong up to one number, its breaking point: q of the first wrong node on the path from the
root to its most probable class. The errors at θ are the breaking points that are ≥ θ.

Thresholds are tested from 1 down a fixed grid. One passes if its errors are too few to be luck: were more than 1 − target of all answers
wrong, so few among n images would have a probability Pr[Bin(n, 1 − target) ≤ errors] of at most 1 − confidence; in other words, the exact
(Clopper–Pearson) upper bound of the risk is at most 1 − target. The first failure ends it, and the last that passed is taken. This is
fixed-sequence testing (Learn then Test, Angelopoulos et al. 2021): the order is fixed beforehand, so each test may use the whole error
probability, which Bonferroni's correction would divide by the number of thresholds; and as errors rise along the sequence, nothing is lost
by stopping. With probability `confidence` over calibration images, at least `target` of the answers to images like these are right.

The temperature must not have seen the images that choose the threshold, so the split is divided.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from hiercnn.errors import CheckpointError, RecipeError
from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._answers import Answers, describe_answers, includes
from hiercnn.inference._climbing import Climbing
from hiercnn.inference._rule import exactly
from hiercnn.inference._temperature import Temperature, check_images, fit_temperature
from hiercnn.settings import Settings

GRID = np.concatenate([np.arange(1000) / 1000, np.round(1 - 10.0 ** -np.arange(3.1, 6.05, 0.1), 8), [1.0]])  # rising
BLOCK = 1024  # images
NOT_FITTED = Temperature(value=1.0, images=0, note="no images were left to fit the temperature on")


class Calibration(Settings):
    """What `calibrate` found; plain numbers, for JSON.

    Attributes:
        temperature: The fitted temperature.
        threshold: θ of climbing; None if no threshold keeps the promise, so that every answer is the root.
        target: Promised share of right answers. confidence: probability with which the promise holds.
        errors: Wrong answers at θ among the images that chose it. bound: upper bound of the share of wrong answers, at that confidence.
        answers: What the answers at θ are worth on those images. plain: the same for the most probable class.
        digest: Fingerprint of the hierarchy.
        note: What the reader should know, or nothing.
    """

    temperature: Temperature
    threshold: float | None
    target: float
    confidence: float
    errors: int
    bound: float
    answers: Answers
    plain: Answers
    digest: str
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """As plain numbers, lists and text."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Calibration":
        """What `to_dict` gave. Raises CheckpointError for anything else, naming what is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise CheckpointError(f"this is no calibration that hiercnn has written: {'; '.join(problems)}; calibrate again") from None

    def describe(self) -> str:
        """A few sentences: what is promised, what it costs in depth, and what to beware of."""
        one, said = self.answers, "always the root" if self.threshold is None else f"threshold {self.threshold:g}"
        sentences = [
            f"Temperature {self.temperature.value:.3g}, {said}: with {exactly(self.confidence)} confidence at least {exactly(self.target)} "
            "of the answers to images like these are right.",
            f"Of {one.images:,} calibration images {one.right:.1%} were answered right (expected {one.probability:.1%}; the most probable "
            f"class {self.plain.right:.1%}), with {one.information:.1%} of the information of a class.",
            f"Answers by depth: {', '.join(f'{depth}: {share:.1%}' for depth, share in enumerate(one.depths) if share)}.",
        ]
        notes = (f"Note: {note}." for note in (self.note, self.temperature.note) if note)
        return " ".join([*sentences, *notes])


def calibrate(
    hierarchy: Hierarchy,
    logits: Tensor,
    labels: Tensor,
    *,
    target: float = 0.95,
    confidence: float = 0.95,
    temperature_share: float = 0.25,
    seed: int = 0,
) -> Calibration:
    """Fit a temperature, and choose the threshold of climbing that keeps a promise on the share of right answers.

    Which answers are right says `Answers`: where labels are inner nodes, answers below them count as wrong, so the promise holds whatever
    the images' classes are. The promise is for images drawn as these were; images on which the network was trained or chosen are not.

    Args:
        hierarchy: Its classes are the logits.
        logits: Leaf scores of the calibration images [B, C].
        labels: Their labels [B], int64, classes or inner nodes.
        target: Share of answers that shall be right, over 0 and below 1.
        confidence: With what probability, over 0 and below 1.
        temperature_share: Share of the images, drawn by `seed`, for the temperature, which no threshold is chosen on; 0 leaves T = 1.

    Raises:
        RecipeError: Shares out of range. ShapeError: logits or labels of another size, type or device. DataError: no images, labels that
            do not exist, NaN logits.

    Source: Angelopoulos et al., "Learn then test: calibrating predictive algorithms to achieve risk control" (2021).
    """
    _check_shares(target=target, confidence=confidence)
    if not 0 <= temperature_share < 1:
        raise RecipeError(f"temperature_share: wanted a share from 0 to below 1, got {temperature_share!r}")
    check_images(logits, labels, hierarchy)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels))).to(logits.device)
    first, second = order.tensor_split([int(temperature_share * len(labels))])
    temperature = fit_temperature(logits[first], labels[first], hierarchy) if len(first) else NOT_FITTED
    logits, labels = logits[second], labels[second]
    points = breaking_points(hierarchy, logits, labels, temperature.value)
    threshold = choose_threshold(points, target, confidence)
    errors = 0 if threshold is None else int((points >= threshold).sum())
    answers, plain = (
        describe_answers(hierarchy, Climbing(hierarchy, threshold=one, temperature=temperature.value).to(logits.device)(logits), labels)
        for one in (threshold, 0.0)
    )
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        target=target,
        confidence=confidence,
        errors=errors,
        bound=0.0 if threshold is None else risk_bound(errors, len(points), confidence),
        answers=answers,
        plain=plain,
        digest=hierarchy.digest,
        note=_note(threshold, answers, target, confidence),
    )


@torch.no_grad()
def breaking_points(hierarchy: Hierarchy, logits: Tensor, labels: Tensor, temperature: float = 1.0) -> np.ndarray:
    """q of the first wrong node on the path from the root to each image's most probable class [B], float64; −1 where none is wrong."""
    rule = Climbing(hierarchy, temperature=temperature).to(logits.device)
    own, found = torch.tensor(hierarchy.label_nodes, device=logits.device)[labels], []
    for scores, nodes in zip(logits.split(BLOCK), own.split(BLOCK), strict=True):
        marginals = rule.marginals(scores)
        paths, q = rule.along(marginals, marginals.best)
        found.append(q.masked_fill(includes(rule, paths, nodes[:, None]), -1.0).amax(1))  # q falls along a path; behind its end it is −1
    return torch.cat(found).cpu().numpy()


def choose_threshold(points: np.ndarray, target: float, confidence: float) -> float | None:
    """The lowest threshold of the grid down to which the promise holds, given the breaking points; None if it fails at once."""
    errors = len(points) - np.searchsorted(np.sort(points), GRID)
    kept = errors <= most_errors(len(points), target, confidence)
    return float(GRID[kept][0]) if kept.any() else None


def most_errors(images: int, target: float, confidence: float) -> int:
    """The most errors that show a risk of at most 1 − target with this confidence; −1 if not even none would."""
    from scipy.special import bdtr

    return int((bdtr(np.arange(images + 1), images, 1 - target) <= 1 - confidence).sum()) - 1


def risk_bound(errors: int, images: int, confidence: float) -> float:
    """Upper bound of the risk at this confidence, after so many errors (Clopper and Pearson, 1934)."""
    from scipy.special import betaincinv

    return 1.0 if errors == images else float(betaincinv(errors + 1, images - errors, confidence))


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise RecipeError(f"{name}: wanted a share over 0 and below 1, got {value!r}")


def _note(threshold: float | None, answers: Answers, target: float, confidence: float) -> str:
    """What to say of the threshold."""
    needed = math.ceil(math.log(1 - confidence) / math.log(target))
    if threshold is None and answers.images < needed:
        return f"{answers.images} images are too few to show it, even without an error; it takes {needed} beside those for the temperature"
    if answers.information == 0:
        return "every answer is the root, which is always right and says nothing; promise less, or train a better network"
    if threshold == 0:
        return "the most probable class is right often enough as it is: every answer is a class"
    return ""
