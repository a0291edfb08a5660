"""`hiercnn models`: which backbones there are, and where heads can sit."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from hiercnn.errors import RecipeError
from hiercnn.models import BackboneInfo, Stage, backbone_names, describe_backbone

FEW = 12  # backbones whose stages are shown; more are listed by name


def print_models(pattern: str, side: int | None) -> None:
    """Print the names that match, and with few of them their stages at images of side × side."""
    names = backbone_names(pattern)
    if len(names) > FEW:
        print("\n".join(names))
        print(f"{len(names)} backbones; a whole name, or a pattern that matches at most {FEW}, shows stages too")
        return
    console = Console()
    for name in names:
        try:
            info = describe_backbone(name, side)
        except RecipeError as error:
            print(f"{name}: {error}\n")
            continue
        console.print(_heading(info), style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(_stages(info))


def _heading(info: BackboneInfo) -> str:
    needed = "".join(f", with model.options.{key}: {value}" for key, value in info.options.items())
    at = info.problem or f"images of {_size(info.size)}{needed}"
    return f"{info.name}: {info.parameters / 1e6:.4g} M parameters with 1,000 classes; {at}"


def _stages(info: BackboneInfo) -> Table:
    """A row for each run of stages alike."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "channels", "stride", "feature map"):
        table.add_column(column, justify="right")
    table.add_column("a head's place")
    for (channels, stride, size), alike in groupby(info.stages, lambda stage: (stage.channels, stage.stride, stage.size)):
        run = list(alike)
        numbers = str(run[0].index) if len(run) == 1 else f"{run[0].index}–{run[-1].index}"
        table.add_row(numbers, str(channels), str(stride), _size(size) if size else "–", ", ".join(_places(run)))
    return table


def _places(run: list[Stage]) -> list[str]:
    """`early`, or `early (4)` where the row has several stages."""
    return [place if len(run) == 1 else f"{place} ({stage.index})" for stage in run for place in stage.places]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
