"""The Triton kernels on CPU tensors, by Triton's interpreter.

Triton decides about a function when it is decorated. So the kernels are imported once more with the switch on and kept out of
`sys.modules`, where real ones may be; and Triton's own functions (tl.sum, tl.max) are swapped while a kernel runs, because
torch.compile may have imported them with the switch off.
"""

import sys
import warnings
from importlib import import_module
from types import ModuleType

import pytest
import triton.experimental.gluon  # noqa: F401  (a kernel's first run imports it and would find tl.sum swapped)
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

NAMES = (
    "class_sums",
    "conditional_log_marginals",
    "conditional_nll",
    "margin_nll",
    "merge_clusters",
    "node_log_marginals",
    "path_sum",
    "ring_nll",
)


def _kernels() -> dict[str, ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("hiercnn.ops._triton")}
        kernels = {name: import_module(f"hiercnn.ops._triton.{name}") for name in NAMES}
    for name in [name for name in sys.modules if name.startswith("hiercnn.ops._triton")]:
        del sys.modules[name]
    sys.modules.update(real)
    return kernels


KERNELS = _kernels()
LIBRARY = [(module, name, fn) for module in (tl, tl.standard) for name, fn in vars(module).items() if isinstance(fn, JITFunction)]
LIBRARY = [(module, name, InterpretedFunction(fn.fn)) for module, name, fn in LIBRARY]


class Interpreted(TorchDispatchMode):
    """Within it the operators run their Triton kernels, forward and backward."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "hiercnn":
            return func(*args, **(kwargs or {}))
        name = func._opname
        kernel = getattr(KERNELS[name.removesuffix("_backward")], "backward" if name.endswith("_backward") else "forward")
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            # numpy warns of inf − inf and log 0 where a GPU does not, also in lanes that tl.where throws away
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"triton\.runtime\.interpreter")
            for module, attribute, function in LIBRARY:
                patch.setattr(module, attribute, function)
            return kernel(*args, **(kwargs or {}))
