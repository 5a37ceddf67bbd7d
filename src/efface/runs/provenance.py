"""Under what circumstances a run was made: its peak memory, the kind of processor, and the commit of the code."""

import contextlib
import functools
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory from now on: of the device on CUDA, else resident memory of this process."""

    def __init__(self, device: str) -> None:
        self._cuda = device if device.startswith("cuda") else None
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            # Linux starts the high-water mark anew on request; elsewhere it is that of the whole process.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Return the peak so far."""
        if self._cuda:
            return torch.cuda.max_memory_allocated(self._cuda)
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@functools.cache
def processor() -> str:
    """Return the kind of processor and the vector instructions that torch uses on it: `AMD EPYC 9654 (AVX512)`.

    They decide which kernels compute, and so the last digits of a result. A table can name the kind of processor, where
    the name of a machine would say nothing to its readers and something of its owner.
    """
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = " ".join(value.split())
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


@functools.cache
def commit() -> str | None:
    """Return the commit of the code, with `+` if there are changes on top; None if this file is in no checkout."""
    git = functools.partial(
        subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
    )
    try:
        git(["git", "ls-files", "--error-unmatch", Path(__file__).name])
        head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changes = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")
