"""Budget convergence: the same recipe with a complete, shorter schedule."""

from hiercnn.errors import RecipeError
from hiercnn.recipe import Recipe
from hiercnn.train import Linear, Steps, Weight

KNOW_THEIR_LENGTH = ("cosine", "poly", "tanh")


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The recipe with `share` of its epochs: learning rate, warm-up and scheduled weights run their whole course in them.

    Raises:
        RecipeError: No share in (0, 1], or a schedule that does not end where training ends.
    """
    if not 0 < share <= 1:
        raise RecipeError(f"a budget is a share of the epochs, 0 < share <= 1; got {share:g}")
    if share == 1:
        return recipe
    if recipe.schedule.name not in KNOW_THEIR_LENGTH:
        names = ", ".join(KNOW_THEIR_LENGTH)
        raise RecipeError(
            f"{recipe.name}: budgets need a schedule that ends with training ({names}), not {recipe.schedule.name};"
            " runs with a constant rate are read at every epoch instead"
        )
    heads = [head.model_copy(update={"weight": _rescaled(head.weight, share)}) for head in recipe.model.heads]
    return recipe.model_copy(
        update={
            "epochs": max(1, round(share * recipe.epochs)),
            "schedule": recipe.schedule.model_copy(update={"warmup_epochs": round(share * recipe.schedule.warmup_epochs)}),
            "model": recipe.model.model_copy(update={"heads": heads}),
            "loss": recipe.loss.model_copy(update={"weight": _rescaled(recipe.loss.weight, share)}),
        }
    )


def _rescaled(weight: Weight, share: float) -> Weight:
    if isinstance(weight, Linear):
        return Linear(linear=weight.linear.model_copy(update={"epochs": max(1, round(share * weight.linear.epochs))}))
    if isinstance(weight, Steps):
        return Steps(steps={round(share * epoch): value for epoch, value in weight.steps.items()})
    return weight
