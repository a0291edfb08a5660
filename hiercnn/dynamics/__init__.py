"""What a network learns when and where: hypernyms before hyponyms, groups apart layer by layer, neural collapse, paths of class means."""

from hiercnn.dynamics._claims import Finding, findings
from hiercnn.dynamics._collapse import Collapse, collapse, etf_floors, group_rows, nc4, nearest_mean
from hiercnn.dynamics._embedding import aligned_path
from hiercnn.dynamics._figures import Story, figures
from hiercnn.dynamics._hypernyms import HypernymScores, LogitStatistics, confusion_matrix, first_reaching, hypernym_scores, sum_rule_hits
from hiercnn.dynamics._live import LiveDynamics, read_moments
from hiercnn.dynamics._measure import LAST, LEAF, LOGITS, TREE, Look, Row, classifier_rows, cut_partitions, look, measure
from hiercnn.dynamics._moments import COLUMNS, Moment, read_moment, times, told, write_moment, write_tables
from hiercnn.dynamics._separability import block_strength, chance_corrected, channel_relevance, class_similarity, probe_accuracy

__all__ = [
    "COLUMNS",
    "LAST",
    "LEAF",
    "LOGITS",
    "TREE",
    "Collapse",
    "Finding",
    "HypernymScores",
    "LiveDynamics",
    "LogitStatistics",
    "Look",
    "Moment",
    "Row",
    "Story",
    "aligned_path",
    "block_strength",
    "chance_corrected",
    "channel_relevance",
    "class_similarity",
    "classifier_rows",
    "collapse",
    "confusion_matrix",
    "cut_partitions",
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
    "read_moment",
    "read_moments",
    "sum_rule_hits",
    "times",
    "told",
    "write_moment",
    "write_tables",
]
