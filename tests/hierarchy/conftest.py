"""Random trees: `@given(tree=st.from_type(Hierarchy))`. Uneven depth, single children, one class; classes in any order."""

from hypothesis import strategies as st

from hiercnn.hierarchy import Hierarchy


@st.composite
def trees(draw) -> Hierarchy:
    parents = [-1] + [drawn % (i + 1) for i, drawn in enumerate(draw(st.lists(st.integers(0, 99), max_size=23)))]
    names = [f"n{i}" for i in range(len(parents))]
    leaves = [name for i, name in enumerate(names) if i not in parents]
    return Hierarchy(names, parents, draw(st.permutations(leaves)))


st.register_type_strategy(Hierarchy, trees())
