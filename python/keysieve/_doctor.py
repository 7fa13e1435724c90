"""What works on this machine."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict

from . import _native


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``doctor`` found; printed, it is a text of a few lines."""

    version: str
    cpu: str
    """The CPU backend in words."""
    cuda: Dict[str, Any]
    """``works``; then the GPU's name, driver and kernels, or the ``reason``."""

    def __str__(self) -> str:
        lines = [f"keysieve {self.version}", f"cpu   works: {self.cpu}"]
        if self.cuda["works"]:
            driver = ".".join(map(str, self.cuda["driver_version"]))
            capability = ".".join(map(str, self.cuda["compute_capability"]))
            lines += [
                f"cuda  works: {self.cuda['device']}",
                f"      driver CUDA {driver}, compute capability {capability}, "
                f"kernels {self.cuda['kernels']}",
            ]
        else:
            lines.append(f"cuda  {self.cuda['reason']}")
        return "\n".join(lines)


def doctor() -> Report:
    """Opens the first GPU, if there is one, and runs a kernel whose answer must be the CPU's."""
    return Report(**_native.doctor())
