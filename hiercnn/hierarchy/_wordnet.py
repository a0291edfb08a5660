"""Trees from WordNet: the noun hypernyms of the classes, made a tree by one recorded rule."""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy._build import from_edges
from hiercnn.hierarchy._tree import Hierarchy

_WNID = re.compile(r"n\d{8}")
_SYNSET = re.compile(r".+\.n\.0*[1-9]\d*")


def from_wordnet(classes: Sequence[str], *, parent_rule: str = "longest") -> Hierarchy:
    """Build the tree of the WordNet hypernyms above some classes.

    WordNet is a directed acyclic graph, so `parent_rule` decides which hypernym a synset keeps; it is recorded in the
    tree's `meta`. Classes keep the names given here; inner nodes are called by wnid and titled by their first lemma.

    Args:
        classes: Each a wnid (`n02084071`), a synset (`dog.n.01`) or a lemma (`dog`), in the data set's order.
        parent_rule: `longest` or `shortest` path to the root; ties by smallest wnid.

    Raises:
        HierarchyError: WordNet is not installed; a class is unknown, ambiguous (lists the senses), given twice, or an
            ancestor of another class.

    Source: WordNet 3.0, Princeton University, read through nltk.
    """
    wordnet = _load()
    synsets = [_synset(wordnet, name) for name in classes]
    wnids = [_wnid(synset) for synset in synsets]
    called: dict[str, str] = {}
    for wnid, name in zip(wnids, map(str, classes), strict=True):
        if wnid in called:
            raise HierarchyError(f"classes '{called[wnid]}' and '{name}' are the same WordNet synset; keep one")
        called[wnid] = name
    edges, titles = _closure(synsets)
    _refuse_ancestors(edges, called)
    tree = from_edges(edges, wnids, parent_rule=parent_rule, titles=titles)
    names = [called.get(name, name) for name in tree.names]
    meta = {"source": "WordNet 3.0 noun hypernyms", "parent_rule": parent_rule}
    return Hierarchy(names, tree.parents, list(map(str, classes)), titles=tree.titles, meta=meta)


def common_hypernyms(classes: Sequence[str]) -> Callable[[Iterable[int]], str | None] | None:
    """A function that gives the lowest common hypernym of some of the classes (their numbers), or None where a class is unknown to WordNet.

    Of an ambiguous class any sense will do: the deepest synset that has a sense of every class below it is meant. None if WordNet is not
    installed.
    """
    try:
        wordnet = _load()
    except HierarchyError:
        return None
    above = [_hypernyms(wordnet, str(name)) for name in classes]

    def common(members: Iterable[int]) -> str | None:
        shared = set.intersection(*(above[member] for member in members))
        deepest = max(shared, key=lambda synset: (synset.max_depth(), _wnid(synset)), default=None)
        return None if deepest is None else deepest.lemma_names()[0].replace("_", " ")

    return common


def _hypernyms(wordnet, name: str) -> set:
    """All senses of a noun and everything above them; nothing for an unknown one."""
    try:
        senses = [_synset(wordnet, name)] if _WNID.fullmatch(name) or _SYNSET.fullmatch(name) else wordnet.synsets(_lemma(name), pos="n")
    except HierarchyError:
        return set()
    waiting, found = list(senses), set()
    while waiting:
        if (synset := waiting.pop()) not in found:
            found.add(synset)
            waiting += synset.hypernyms() + synset.instance_hypernyms()
    return found


def _lemma(name: str) -> str:
    return name.replace(" ", "_")


def _load():
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise HierarchyError(
            "WordNet is not installed; run: python -m nltk.downloader wordnet"
            " (or point NLTK_DATA at a folder that holds corpora/wordnet.zip)"
        ) from None
    return wordnet


def _synset(wordnet, name: str):
    from nltk.corpus.reader.wordnet import WordNetError

    name = str(name)
    if _WNID.fullmatch(name) or _SYNSET.fullmatch(name):
        try:
            synset = _of_wnid(wordnet, name) if _WNID.fullmatch(name) else wordnet.synset(name)
        except WordNetError:
            synset = None
        if synset is None:
            raise HierarchyError(f"WordNet has no synset '{name}'")
        return synset
    senses = wordnet.synsets(_lemma(name), pos="n")
    if not senses:
        raise HierarchyError(f"WordNet has no noun '{name}'; give the class a wnid such as n02084071, or a lemma it knows")
    if len(senses) > 1:
        listed = "\n".join(f"  {_wnid(s)}  {s.name():24} {s.definition()}" for s in senses)
        raise HierarchyError(f"'{name}' is ambiguous in WordNet; write the wnid or synset of the sense you mean:\n{listed}")
    return senses[0]


def _of_wnid(wordnet, wnid: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns about an unknown offset and returns None
        return wordnet.synset_from_pos_and_offset("n", int(wnid[1:]))


def _wnid(synset) -> str:
    return f"{synset.pos()}{synset.offset():08d}"


def _closure(synsets) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Every (hypernym, hyponym) edge above the synsets, and a title for every node."""
    edges, titles, waiting = [], {}, list(reversed(synsets))
    while waiting:
        synset = waiting.pop()
        if (wnid := _wnid(synset)) in titles:
            continue
        titles[wnid] = synset.lemma_names()[0].replace("_", " ")
        above = sorted(synset.hypernyms() + synset.instance_hypernyms(), key=_wnid)  # nltk keeps them in a set: no order
        edges.extend((_wnid(parent), wnid) for parent in above)
        waiting.extend(above)
    return edges, titles


def _refuse_ancestors(edges: list[tuple[str, str]], called: dict[str, str]) -> None:
    for parent, _ in edges:
        if parent in called:
            raise HierarchyError(
                f"class '{called[parent]}' is a hypernym of another class, so it cannot be a leaf of the same tree;"
                " leave one out or use a custom tree (CSV or YAML)"
            )
