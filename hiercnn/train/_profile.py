"""`--profile`: where the time of a training step goes, by torch.profiler."""

import contextlib
import os
import time
from pathlib import Path

import torch

from hiercnn.files import atomic_file

WARM, STEPS = 3, 10  # batches before the first one looked at, and batches looked at
SECTIONS = ("data", "forward", "loss", "backward", "update")


class StepProfile:
    """Records some batches of training; `trace.json` (for chrome://tracing or ui.perfetto.dev) and a table of what they did.

    Args:
        folder: Where the trace goes.
        device: Of the training; on CUDA every section waits for its kernels, so that its time is its own.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.batch, self.seconds = 0, dict.fromkeys(SECTIONS, 0.0)
        self._profiler: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def section(self, name: str):
        """One of `SECTIONS` of the present batch."""
        began = time.perf_counter()
        with torch.profiler.record_function(name):
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        if WARM <= self.batch < WARM + STEPS:
            self.seconds[name] += time.perf_counter() - began

    def next_batch(self) -> str | None:
        """To be called after each batch; returns the table after the last one."""
        self.batch += 1
        if self.batch == WARM:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its remarks on GPUs that are not there
            self._profiler = torch.profiler.profile()
            self._profiler.start()
        if self.batch < WARM + STEPS:
            return None
        self._profiler.stop()
        self.folder.mkdir(exist_ok=True)
        with atomic_file(self.folder / "trace.json") as scratch:
            self._profiler.export_chrome_trace(str(scratch))
        table = self.table()
        with atomic_file(self.folder / "steps.txt") as scratch:
            scratch.write_text(table + "\n", encoding="utf-8")
        return table

    def unfinished(self) -> str:
        """What to say when training ended before the last batch that is looked at."""
        if self._profiler is not None:
            self._profiler.stop()
        return f"no profile: it needs {WARM + STEPS} batches, and there were {self.batch}"

    def table(self) -> str:
        """Milliseconds of each section a batch, and the operators that take longest."""
        total = sum(self.seconds.values())
        on_gpu = self.device.type == "cuda"
        own = (lambda event: event.self_device_time_total) if on_gpu else (lambda event: event.self_cpu_time_total)
        events = sorted((event for event in self._profiler.key_averages() if event.key not in SECTIONS), key=own, reverse=True)[:8]
        lines = [
            f"a training step of {1000 * total / STEPS:.1f} ms, mean of {STEPS}:",
            *(f"  {name:9}{1000 * spent / STEPS:9.1f} ms{100 * spent / total:6.0f} %" for name, spent in self.seconds.items()),
            "  of which, by operator:",
            *(f"    {own(event) / 1000 / STEPS:9.1f} ms  {event.key[:60]}, {event.count} calls" for event in events),
            f"  trace: {self.folder}/trace.json",
        ]
        return "\n".join(lines)
