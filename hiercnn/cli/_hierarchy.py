"""`hiercnn hierarchy`: look at, check, make and cut class trees."""

from pathlib import Path
from typing import Annotated

import typer

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import Hierarchy, builtin, builtin_names, draw, from_folders, from_wordnet, read_hierarchy, save_hierarchy

hierarchy = typer.Typer(help="Look at, check, make and cut class trees.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(help="A built-in name (cifar100), a .json, .yaml or .csv file, or a folder of class folders.")]
Columns = Annotated[str | None, typer.Option(help="Columns of a CSV file, coarse → fine, separated by commas.")]
Rule = Annotated[str | None, typer.Option(help="longest or shortest: which of several parents a node keeps.")]


def load(source: str, columns: str | None = None, parent_rule: str | None = None) -> Hierarchy:
    """A built-in tree by name, a file, or a folder."""
    path = Path(source)
    if path.is_file() or path.suffix:
        named = [column.strip() for column in columns.split(",")] if columns else None
        return read_hierarchy(path, columns=named, parent_rule=parent_rule)
    if columns or parent_rule:
        raise HierarchyError(f"--columns and --parent-rule are for files; {source} is a {'folder' if path.is_dir() else 'built-in name'}")
    return from_folders(path) if path.is_dir() else builtin(source)


@hierarchy.command()
def show(
    source: Source,
    columns: Columns = None,
    parent_rule: Rule = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest level to draw.")] = None,
    children: Annotated[int | None, typer.Option(min=1, help="Most children to draw below a node.")] = None,
) -> None:
    """Draw a tree."""
    from rich.console import Console

    Console().print(draw(load(source, columns, parent_rule), max_depth=depth, max_children=children))


@hierarchy.command()
def check(source: Source, columns: Columns = None, parent_rule: Rule = None) -> None:
    """Say whether a tree is sound, its sizes and the groups at each depth."""
    tree = load(source, columns, parent_rule)
    inner = tree.heights > 0
    single = sum(len(tree.children(node)) == 1 for node in range(tree.num_nodes) if inner[node])
    leaf_depths = tree.depths[tree.leaf_nodes]
    print(f"sound: {tree.num_classes} classes, {tree.num_nodes} nodes, leaf depth {leaf_depths.min()} to {leaf_depths.max()}")
    print(f"groups at depth 1 to {tree.height}: {', '.join(str(len(tree.cut(depth=d))) for d in range(1, tree.height + 1))}")
    if single:
        print(f"{single} inner nodes have a single child (hierarchy.collapse=true removes them)")
    for key in ("source", "parent_rule"):
        if key in tree.meta:
            print(f"{key}: {tree.meta[key]}")


@hierarchy.command()
def build(
    classes: Annotated[list[str], typer.Argument(help="wnids, synsets (dog.n.01) or lemmas; @FILE reads them from a file, one a line.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    parent_rule: Annotated[str, typer.Option(help="longest or shortest path to the root.")] = "longest",
    collapse: Annotated[bool, typer.Option("--collapse", help="Remove inner nodes with a single child.")] = False,
) -> None:
    """Build the WordNet tree of some classes."""
    tree = from_wordnet(_names(classes), parent_rule=parent_rule)
    _write(tree.collapse() if collapse else tree, out)


@hierarchy.command()
def cut(
    source: Source,
    columns: Columns = None,
    parent_rule: Rule = None,
    groups: Annotated[int | None, typer.Option(help="Cut into at most this many groups.")] = None,
    depth: Annotated[int | None, typer.Option(help="Cut at this depth.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the tree with this cut as JSON.")] = None,
) -> None:
    """Print the groups of one cut and their classes."""
    if (groups is None) == (depth is None):
        raise HierarchyError("say where to cut: --groups or --depth")
    tree = load(source, columns, parent_rule)
    made = tree.cut(groups=groups, depth=depth)
    for group, name in enumerate(made.names):
        members = [tree.classes[c] for c in tree.leaf_order if made.groups[c] == group]
        print(f"{name} ({len(members)}): {', '.join(members)}")
    if out is not None:
        _write(tree, out, [made])


@hierarchy.command("list")
def list_builtin() -> None:
    """List the built-in trees."""
    for name in builtin_names():
        tree = builtin(name)
        print(f"{name:18} {tree.num_classes} classes, {tree.num_nodes} nodes. {tree.meta.get('source', '')}")


def _names(classes: list[str]) -> list[str]:
    names = []
    for text in classes:
        if not text.startswith("@"):
            names.append(text)
            continue
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise HierarchyError(f"cannot read class names from {text[1:]}: {error}") from None
        names += [line.strip() for line in lines if line.strip()]
    return names


def _write(tree: Hierarchy, out: Path, cuts=()) -> None:
    if out.suffix != ".json" or out.exists():
        raise HierarchyError(f"--out {out}: {'is there already; name a new file' if out.exists() else 'trees are written as .json'}")
    try:
        save_hierarchy(tree, out, cuts)
    except OSError as error:
        raise HierarchyError(f"cannot write {out}: {error.strerror}") from None
    print(f"wrote {out}: {tree.num_classes} classes, {tree.num_nodes} nodes")
