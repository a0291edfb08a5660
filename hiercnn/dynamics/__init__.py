"""What a network learns when and where: hypernyms before hyponyms, groups apart layer by layer, neural collapse, paths of class means."""

from hiercnn.dynamics._claims import Finding, findings
from hiercnn.dynamics._collapse import Collapse, collapse, etf_floors, group_rows, nc4, nearest_mean
from hiercnn.dynamics._embedding import aligned_path
from hiercnn.dynamics._figures import Story, figures
from hiercnn.dynamics._hypernyms import HypernymScores, confusion_matrix, first_reaching, hypernym_scores, sum_rule_hits
from hiercnn.dynamics._measure import LAST, LEAF, LOGITS, TREE, Look, Row, look, measure
from hiercnn.dynamics._separability import block_strength, chance_corrected, channel_relevance, class_similarity, probe_accuracy

__all__ = [
    "LAST",
    "LEAF",
    "LOGITS",
    "TREE",
    "Collapse",
    "Finding",
    "HypernymScores",
    "Look",
    "Row",
    "Story",
    "aligned_path",
    "block_strength",
    "chance_corrected",
    "channel_relevance",
    "class_similarity",
    "collapse",
    "confusion_matrix",
    "etf_floors",
    "figures",
    "findings",
    "first_reaching",
    "group_rows",
    "hypernym_scores",
    "look",
    "measure",
    "nc4",
    "nearest_mean",
    "probe_accuracy",
    "sum_rule_hits",
]
