"""Back-off that keeps a promise: the rule to use where a calibration split has been seen."""

from hiercnn.errors import CheckpointError
from hiercnn.hierarchy import Hierarchy
from hiercnn.inference._calibrate import Calibration
from hiercnn.inference._climbing import Climbing
from hiercnn.inference._marginals import Marginals
from hiercnn.inference._registry import rules
from hiercnn.inference._rule import exactly
from hiercnn.settings import checked_options


@rules.register("auto")
class Auto(Climbing):
    """Climbing with the temperature and the threshold that `calibrate` found.

    Args:
        hierarchy: Its classes are the logits.
        calibration: What `calibrate` returned, or its `to_dict()`.

    Raises:
        CheckpointError: The calibration was made for another hierarchy, or other classes or another order of them.
    """

    @checked_options
    def __init__(self, hierarchy: Hierarchy, *, calibration: Calibration):
        if calibration.digest != hierarchy.digest:
            raise CheckpointError("auto: the calibration is of another hierarchy, or of classes in another order; calibrate again")
        super().__init__(hierarchy, threshold=calibration.threshold, temperature=calibration.temperature.value)
        self.calibration = calibration

    def explain(self, marginals: Marginals, node: int) -> str:
        if self.threshold is None:
            return f"every answer is {self.title(node)}: no threshold is known with which {exactly(self.calibration.target)} are right"
        return super().explain(marginals, node)
