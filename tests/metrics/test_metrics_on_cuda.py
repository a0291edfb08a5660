"""On CUDA the metrics give a CPU's numbers."""

import pytest
import torch
from metrics.batches import assert_close

from hiercnn.hierarchy import builtin
from hiercnn.metrics import calibration, full_path, hierarchical_f, level_accuracy, mistakes, operating_curve, risk_coverage

TREE = builtin("cifar100")
CUTS = TREE.cuts([8, 20, "leaf"])
OF_SCORES = {
    "level_accuracy": lambda scores, labels: level_accuracy(scores, labels, TREE, CUTS, ks=(1, 5, 20)),
    "mistakes": lambda scores, labels: mistakes(scores, labels, TREE),
    "hierarchical_f": lambda scores, labels: hierarchical_f(scores.argmax(1), labels, TREE),
    "full_path": lambda scores, labels: full_path(scores[:, :3].argsort(1), labels, CUTS),
    "calibration": lambda scores, labels: calibration(scores, labels, TREE, CUTS),
    "operating_curve": lambda scores, labels: operating_curve(scores, labels, TREE),
    "risk_coverage": lambda scores, labels: risk_coverage(scores, labels, TREE),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", OF_SCORES)
@pytest.mark.parametrize("ties", [False, True])
def test_numbers_are_those_of_a_cpu(name, ties):
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(500, TREE.num_classes, generator=generator, dtype=torch.float64)
    scores, labels = scores.round() if ties else scores, torch.randint(TREE.num_nodes, (500,), generator=generator)
    assert_close(OF_SCORES[name](scores.cuda(), labels.cuda()), OF_SCORES[name](scores, labels), rel=1e-6, abs=1e-6)
