"""A hierarchy as a tree in the terminal."""

from hiercnn.hierarchy._tree import Hierarchy


def draw(hierarchy: Hierarchy, *, max_depth: int | None = None, max_children: int | None = None):
    """Return a `rich.tree.Tree`: groups with their number of classes, down to `max_depth`, `max_children` a node."""
    from rich.text import Text
    from rich.tree import Tree

    def text(node: int) -> Text:
        label = Text(hierarchy.names[node], style="" if hierarchy.is_leaf(node) else "bold")
        if hierarchy.titles[node] != hierarchy.names[node]:
            label.append(f"  {hierarchy.titles[node]}", style="italic")
        if not hierarchy.is_leaf(node):
            size = hierarchy.stops[node] - hierarchy.starts[node]
            label.append(f"  {size} class{'es' if size > 1 else ''}", style="dim")
        return label

    top = Tree(text(0))
    stack = [(top, 0)]
    while stack:
        branch, node = stack.pop()
        if max_depth is not None and hierarchy.depths[node] >= max_depth:
            continue
        children = hierarchy.children(node).tolist()
        for child in children[:max_children]:
            stack.append((branch.add(text(child)), child))
        if max_children is not None and len(children) > max_children:
            branch.add(Text(f"… {len(children) - max_children} more", style="dim"))
    return top
