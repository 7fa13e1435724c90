"""Custom operators for torch: ``torch.ops.keysieve.select`` and ``torch.ops.keysieve.append``.

With them ``torch.compile`` keeps a graph whole that selects keys. Importing this module registers them; it is the only part
of the package besides ``compat`` that needs torch.

    import keysieve.torch_ops as ops
    state = ops.register(index)                       # int64 [2] on the CPU: which index, its seq_len
    ops.append(state, new_keys)                       # changes state
    positions, lengths = ops.select(state, queries)

``state`` stands for the index in a graph: an append writes it, so that a compiler keeps the order of appends and selects.
An index is kept as long as it is registered: see ``unregister``.
"""

from __future__ import annotations

import itertools
import threading
from typing import Dict, Tuple

import torch

import keysieve

from ._errors import InvalidArgument

_indices: Dict[int, keysieve.KeyIndex] = {}
_lock = threading.Lock()
_numbers = itertools.count(1)


def register(index: keysieve.KeyIndex) -> torch.Tensor:
    """The state that stands for ``index``: int64 [2] on the CPU."""
    with _lock:
        number = next(_numbers)
        _indices[number] = index
    return torch.tensor([number, index.seq_len], dtype=torch.int64)


def unregister(state: torch.Tensor) -> None:
    """Lets go of the index."""
    with _lock:
        _indices.pop(int(state[0]), None)


def _index(state: torch.Tensor) -> keysieve.KeyIndex:
    number = int(state[0])
    index = _indices.get(number)
    if index is None:
        raise InvalidArgument.of("state", f"index {number}", "the state of a registered index")
    return index


def _list_shape(index: keysieve.KeyIndex, queries: torch.Tensor) -> Tuple[int, ...]:
    select, config = index.select_config, index.config
    heads = queries.shape[1] if select.aggregation == "per-head" else index.shape[1]
    stride = select.sink + select.heavy + select.window
    if select.short_context:
        limit = select.heavy + config.init_offset + queries.shape[2] + 2**config.bits
        stride = max(stride, min(limit, index.capacity))
    return queries.shape[0], heads, queries.shape[2], max(stride, 1)


@torch.library.custom_op("keysieve::select", mutates_args=())
def select(
    state: torch.Tensor, queries: torch.Tensor, heads: int, stride: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The lists of ``queries`` [batch, num_qo_heads, num_queries, head_dim], on their device: positions int32
    [batch, heads, num_queries, stride] (whatever ``SelectConfig.positions`` says), lengths int32 [batch, heads, num_queries]. ``list_shape`` says heads and stride."""
    selection = _index(state).select(queries)
    positions = torch.from_dlpack(selection.positions)
    lengths = torch.from_dlpack(selection.lengths)
    expected = (queries.shape[0], heads, queries.shape[2], stride)
    if tuple(positions.shape) != expected:
        raise InvalidArgument.of(
            "heads, stride", expected[1::2], f"{tuple(positions.shape[1::2])}, as list_shape says"
        )
    # Theirs is the index's memory, which a later call writes.
    positions = positions.to(queries.device, torch.int32, copy=True)
    return positions, lengths.to(queries.device, copy=True)


@select.register_fake
def _(state, queries, heads, stride):
    rows = (queries.shape[0], heads, queries.shape[2])
    return (
        queries.new_empty((*rows, stride), dtype=torch.int32),
        queries.new_empty(rows, dtype=torch.int32),
    )


@torch.library.custom_op("keysieve::append", mutates_args=("state",))
def append(state: torch.Tensor, keys: torch.Tensor) -> None:
    """Encodes ``keys`` [batch, num_kv_heads, tokens, head_dim] and adds them to the index."""
    index = _index(state)
    index.append(keys)
    state[1] = index.seq_len


@append.register_fake
def _(state, keys):
    return None


def list_shape(index: keysieve.KeyIndex, queries: torch.Tensor) -> Tuple[int, int]:
    """``heads`` and ``stride`` of ``select``."""
    _, heads, _, stride = _list_shape(index, queries)
    return heads, stride
