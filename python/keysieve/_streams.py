"""Which CUDA stream a call works on."""

from __future__ import annotations

import sys
from typing import Any, Optional


def stream_number(array: Any, stream: Optional[Any]) -> Optional[int]:
    """The stream as DLPack numbers them: ``stream`` if there is one (a number, or an object with
    ``cuda_stream``, as torch's, or ``ptr``, as CuPy's), for a torch tensor torch's current stream,
    else None, which stands for the default stream."""
    if stream is None:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(array, torch.Tensor) or not array.is_cuda:
            return None
        stream = torch.cuda.current_stream(array.device)
    return _number(stream)


def current_stream(stream: Optional[Any]) -> Optional[int]:
    """As ``stream_number``, for a call without arrays: torch's current stream if torch is in use."""
    if stream is None:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return None
        stream = torch.cuda.current_stream()
    return _number(stream)


def _number(stream: Any) -> int:
    for name in ("cuda_stream", "ptr"):
        stream = getattr(stream, name, stream)
    # 0 is the driver's number of the default stream, 1 is DLPack's.
    return int(stream) or 1
