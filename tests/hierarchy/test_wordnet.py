"""Trees from WordNet: names of three kinds, refusals, and the counted facts about ImageNet."""

import json

import numpy as np
import pytest

from hiercnn.errors import HierarchyError
from hiercnn.hierarchy import common_hypernyms, from_wordnet


def test_without_wordnet_the_message_names_the_command(monkeypatch):
    class Missing:
        def ensure_loaded(self):
            raise LookupError("Resource wordnet not found")

    monkeypatch.setattr("nltk.corpus.wordnet", Missing())
    with pytest.raises(HierarchyError, match=r"WordNet is not installed; run: python -m nltk\.downloader wordnet \(or .* NLTK_DATA"):
        from_wordnet(["zebra", "polar bear"])


def test_classes_keep_their_names_and_order(wordnet):
    tree = from_wordnet(["n02391049", "dog.n.01", "polar bear"])
    assert tree.classes == ("n02391049", "dog.n.01", "polar bear")
    assert [tree.titles[node] for node in tree.leaf_nodes] == ["zebra", "dog", "ice bear"]
    assert (tree.names[0], tree.titles[0]) == ("n00001740", "entity")
    assert tree.titles[int(tree.lca(*tree.leaf_nodes[1:]))] == "carnivore"
    assert tree.meta == {"source": "WordNet 3.0 noun hypernyms", "parent_rule": "longest"}


def test_instances_have_hypernyms(wordnet):
    tree = from_wordnet(["paris.n.01", "zebra"])
    assert "national capital" in tree.titles


def test_common_hypernyms_take_the_sense_that_fits(wordnet):
    common = common_hypernyms(["ray", "shark", "flatfish", "n02391049", "dog.n.01", "no such thing", "mouse"])
    assert common([0, 1]) == "elasmobranch"  # a ray of light is none
    assert common([0, 1, 2]) == "fish"
    assert common([3, 4]) == "placental"
    assert common([4]) == "dog"
    assert common([6, 4]) == "placental"
    assert common([4, 5]) is None


def test_common_hypernyms_need_wordnet(monkeypatch):
    class Missing:
        def ensure_loaded(self):
            raise LookupError

    monkeypatch.setattr("nltk.corpus.wordnet", Missing())
    assert common_hypernyms(["dog", "cat"]) is None


BAD_CLASSES = {
    "ambiguous": (["crane", "zebra"], r"'crane' is ambiguous in WordNet; write the wnid or synset(?s:.*)n02012849 +crane\.n\.05 +large"),
    "unknown lemma": (["zebraa"], "WordNet has no noun 'zebraa'; give the class a wnid such as"),
    "empty": ([""], "WordNet has no noun ''"),
    "a verb": (["run.v.01"], r"WordNet has no noun 'run\.v\.01'"),
    "unknown sense": (["dog.n.99"], r"WordNet has no synset 'dog\.n\.99'"),
    "sense 0": (["dog.n.00"], r"WordNet has no noun 'dog\.n\.00'"),
    "unknown wnid": (["n02084072"], "WordNet has no synset 'n02084072'"),
    "wnid 0": (["n00000000"], "WordNet has no synset 'n00000000'"),
    "twice": (["zebra", "dog.n.01", "n02391049"], "classes 'zebra' and 'n02391049' are the same WordNet synset; keep one"),
    "ancestor": (["dog.n.01", "zebra", "canine.n.02"], r"class 'canine\.n\.02' is a hypernym of another class"),
    "none": ([], "no edges: the hierarchy is empty"),
    "rule": (["dog.n.01", "zebra"], "unknown parent_rule 'shortst'; .*did you mean 'shortest'"),
}


@pytest.mark.parametrize(("classes", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES)
def test_bad_classes(wordnet, classes, message):
    with pytest.raises(HierarchyError, match=message):
        from_wordnet(classes, parent_rule="shortst" if "parent_rule" in message else "longest")


IMAGENET = {
    "longest": (1818, 4, 18, [2, 5, 8, 14, 32, 76, 193, 328, 467, 582]),
    "shortest": (1810, 4, 17, [2, 5, 12, 20, 39, 88, 235, 381, 544, 657]),
}


@pytest.mark.parametrize("rule", IMAGENET)
def test_imagenet_counts(wordnet, shared, rule):
    wnids = json.loads((shared / "data" / "wordnet30_imagenet1k.json").read_text())["leaves"]
    tree = from_wordnet(wnids, parent_rule=rule)
    leaf_depths = tree.depths[tree.leaf_nodes]
    assert (tree.num_nodes, leaf_depths.min(), leaf_depths.max()) == IMAGENET[rule][:3]
    assert [len(tree.cut(depth=depth)) for depth in range(1, 11)] == IMAGENET[rule][3]
    assert tree.classes == tuple(wnids)
    assert tree.meta["parent_rule"] == rule


def test_imagenet_by_the_longest_rule(wordnet, shared):
    wnids = json.loads((shared / "data" / "wordnet30_imagenet1k.json").read_text())["leaves"]
    tree = from_wordnet(wnids)
    assert {tree.titles[tree.node(n)]: len(tree.leaves(tree.node(n))) for n in ("n00021939", "n00015388", "n02084071")} == {
        "artifact": 522,
        "animal": 398,
        "dog": 118,
    }
    assert (np.bincount(tree.parents[1:], minlength=tree.num_nodes) == 1).sum() == 443
    assert tree.collapse().num_nodes == 1375
