"""The step of ``indexer_next`` on a GPU, for torch: by addresses, its results in the index's memory."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch

import keysieve
from keysieve import _native

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream or 1


try:
    # The number alone, without an object around it.
    from torch._C import _cuda_getCurrentRawStream

    def _current_stream(index: int) -> int:  # noqa: F811
        return _cuda_getCurrentRawStream(index) or 1

except ImportError:
    pass


class TorchStep:
    """Steps of one cache. Results are this object's: the next step writes them."""

    def __init__(
        self, index: keysieve.KeyIndex, selection: keysieve.Selection, query: Any, width: int
    ) -> None:
        """``selection`` is the index's last, whose buffers all later steps write; ``width`` positions of a list are
        as many as it can have."""
        self.device = query.device
        self.query_shape = query.shape
        batch, kv_heads, self.capacity, head_dim = index.shape
        self.key_shape = (batch, kv_heads, head_dim)
        self.seq_len = index.seq_len
        self._stepper = _native.Stepper(index._native, index.select_config, query.shape[1])
        native = selection._native
        # Of 64 bits, as PQCache's are.
        self._positions = torch.from_dlpack(native.positions)[:, :, 0, :width]
        self._lengths = torch.from_dlpack(native.lengths)[:, :, 0]
        self._weights = torch.from_dlpack(native.padded_weights)[:, :, 0]
        self._len = self._lengths.to(torch.int64, copy=True)
        # With as many tokens there are `heavy` candidates, and lists grow no longer.
        select = index.select_config
        start = max(select.sink, index.config.init_offset)
        self._full_from = start + select.heavy + select.window
        self._cast: Optional[torch.Tensor] = None

    def lists(self, dtype: torch.dtype) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """PQCache's lists of the last step."""
        positions = self._positions
        if self.seq_len <= self._full_from:
            self._len.copy_(self._lengths)
            positions = positions[:, :, : self.seq_len]
        weights = self._weights[:, :, : self.seq_len]
        if dtype is not torch.float32:
            if self._cast is None or self._cast.dtype is not dtype:
                self._cast = torch.empty(self._weights.shape, dtype=dtype, device=self.device)
            weights = self._cast[:, :, : self.seq_len].copy_(weights)
        return positions, self._len, weights

    def step(
        self, query: Any, key: Any, dtype: Any, sk: int
    ) -> Optional[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """One step on the last of ``key``'s tokens; None for what only the long way knows."""
        b, h_kv, _, d = key.shape
        query_type, key_type = _DTYPES.get(query.dtype), _DTYPES.get(key.dtype)
        device = self.device
        if (
            sk > self.capacity
            or query.shape != self.query_shape
            or (b, h_kv, d) != self.key_shape
            or query_type is None
            or key_type is None
            or query.device != device
            or key.device != device
        ):
            return None
        kb, kh, kt, kd = key.stride()
        qb, qh, _, qd = query.stride()
        last = key.data_ptr() + (sk - 1) * kt * key.element_size()
        self.seq_len = self._stepper.step(
            (last, key_type, kb, kh, kd),
            (query.data_ptr(), query_type, qb, qh, qd),
            _current_stream(device.index),
        )
        return self.lists(dtype)
