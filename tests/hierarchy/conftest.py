"""Random trees: `@given(tree=st.from_type(Hierarchy))`."""

from hypothesis import strategies as st
from random_trees import trees

from hiercnn.hierarchy import Hierarchy

st.register_type_strategy(Hierarchy, trees())
