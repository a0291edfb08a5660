"""`hiercnn recipes`: list the shipped recipes and copy them to where they can be changed."""

import os
from pathlib import Path
from typing import Annotated

import typer

from hiercnn.errors import RecipeError, did_you_mean
from hiercnn.recipe import recipes_folder, shipped_recipes

recipes = typer.Typer(help="List and copy the shipped recipes.", no_args_is_help=True)


@recipes.command("list")
def list_recipes() -> None:
    """List the shipped recipes, each with its first line."""
    for name in shipped_recipes():
        first = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:28} {first.lstrip('# ')}")


@recipes.command()
def copy(
    name: Annotated[str, typer.Argument(help="A recipe (cifar100/flat) or a whole folder of them (cifar100).")],
    dest: Annotated[Path, typer.Argument(help="Folder to copy to; recipes keep their folder, cifar100/flat.yaml.")] = Path("recipes"),
) -> None:
    """Copy a recipe, and the ones it extends, into a folder of yours. Files that are there already are left alone."""
    wanted = [recipe for recipe in shipped_recipes() if recipe == name.removesuffix(".yaml") or recipe.startswith(f"{name.rstrip('/')}/")]
    if not wanted:
        raise RecipeError(f"no shipped recipe '{name}'{did_you_mean(name, shipped_recipes())} (hiercnn recipes list)")
    for file in dict.fromkeys(path for recipe in wanted for path in _chain(recipes_folder() / f"{recipe}.yaml")):
        target = dest / file.relative_to(recipes_folder())
        if target.exists():
            print(f"left alone: {target} is there already")
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        except OSError as error:
            raise RecipeError(f"cannot write {target}: {error.strerror}") from None
        print(f"wrote {target}")


def _chain(path: Path) -> list[Path]:
    """A recipe file and those it extends."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("extends:"):
            return [path, *_chain(Path(os.path.normpath(path.parent / line.split(":", 1)[1].strip())))]
    return [path]
