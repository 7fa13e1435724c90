"""The calling convention of the public PQCache indexers, for numpy arrays and torch tensors.

    state = indexer_first(query, key, ...)      # after prefill
    state = indexer_next(query, key, ..., pq_centroids, pq_codebook, pq_ip2l2_phi)      # at every step

``query`` is [b, h, 1, d], ``key`` [b, h_kv, sk, d], all keys so far. Both return

    sparse_list   int64 [b, h, length]     positions to attend to, ascending; behind a shorter list -1
    sparse_len    int64 [b, h]
    weight_list   weight_list_dtype [b, h, sk]: 1 at listed positions, 0 elsewhere
    pq_centroids  [b, h_kv, m, 2**pq_bits, d / m], with metric "ip" one component more
    pq_codebook   int64 [b, n, h_kv, m]: the codes of positions init_offset and on
    pq_ip2l2_phi  [b * h_kv * m, 1, 1] with metric "ip", else None

While ``sk <= heavy_size + init_offset + 1 + 2**pq_bits`` every position is listed, and the last three are
handed back as they came, None at first; centroids are trained at the first call beyond that.

Without a cache every ``indexer_next`` builds an index of the codebook it is handed. A ``Cache`` keeps the
index instead; then ``pq_codebook`` is handed back as it came, and ``Cache.codebook()`` has all of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional

import keysieve

from .._errors import InvalidArgument, InvalidType
from . import _arrays

__all__ = ["Cache", "Step", "indexer_first", "indexer_next"]

_METRICS = {"euclidean": "l2", "l2": "l2", "ip": "ip"}


class Step(NamedTuple):
    """What both indexers return; see the module."""

    sparse_list: Any
    sparse_len: Any
    weight_list: Any
    pq_centroids: Any
    pq_codebook: Any
    pq_ip2l2_phi: Any


class Cache:
    """One layer's index, kept from step to step. It belongs to one sequence of calls: ``indexer_first``
    begins it anew, ``indexer_next`` appends the keys that it has not seen.

    ``capacity`` is the number of tokens there will be room for; None: 4096 more than at the first call
    (an index that grows beyond its room is copied, which is slow).

    On a GPU a step's results are the cache's memory: read them, do not write them; the next step writes them.
    """

    def __init__(self, capacity: Optional[int] = None) -> None:
        self.capacity = capacity
        self.index: Optional[keysieve.KeyIndex] = None
        self._settings: Optional[tuple] = None
        self._like: Any = None
        self._engine: Any = None

    def codebook(self) -> Any:
        """All codes, int64 [b, n, h_kv, m], where the keys are; None before centroids are trained."""
        if self.index is None:
            return None
        return _arrays.codebook(self.index, self._like)


@dataclasses.dataclass(frozen=True)
class _Settings:
    pq: keysieve.PqConfig
    select: keysieve.SelectConfig
    training: keysieve.TrainConfig
    full_attention_limit: int


_settings_of: dict = {}


def _settings(key: tuple) -> _Settings:
    """Made and checked once for each set of arguments, in the order of ``indexer_first``."""
    found = _settings_of.get(key)
    if found is not None:
        return found
    (
        sink_size, window_size, heavy_size, pq_group_factor, pq_bits, kmeans_iter, init_offset, metric,
    ) = key
    if metric not in _METRICS:
        raise InvalidArgument.of("metric", repr(metric), "'euclidean' or 'ip'")
    made = _Settings(
        pq=keysieve.PqConfig(pq_group_factor, pq_bits, init_offset, _METRICS[metric]),
        # Short contexts are listed here, so that no list needs room for one.
        select=keysieve.SelectConfig(
            sink=sink_size,
            window=window_size,
            heavy=heavy_size,
            short_context=False,
            weights=True,
            positions="int64",
        ),
        training=keysieve.TrainConfig(iterations=kmeans_iter),
        full_attention_limit=heavy_size + init_offset + 1 + 2**pq_bits,
    )
    _settings_of[key] = made
    return made


def indexer_first(
    query: Any,
    key: Any,
    weight_list_dtype: Any,
    sink_size: int,
    window_size: int,
    heavy_size: int,
    pq_group_factor: int,
    pq_bits: int,
    kmeans_iter: int,
    init_offset: int,
    metric: str = "euclidean",
    *,
    cache: Optional[Cache] = None,
) -> Step:
    """Trains codebooks on ``key`` and lists what ``query`` attends to. See the module."""
    if cache is not None:
        cache.index = None
    return indexer_next(
        query,
        key,
        weight_list_dtype,
        sink_size,
        window_size,
        heavy_size,
        pq_group_factor,
        pq_bits,
        kmeans_iter,
        init_offset,
        metric,
        None,
        None,
        None,
        cache=cache,
    )


def indexer_next(
    query: Any,
    key: Any,
    weight_list_dtype: Any,
    sink_size: int,
    window_size: int,
    heavy_size: int,
    pq_group_factor: int,
    pq_bits: int,
    kmeans_iter: int,
    init_offset: int,
    metric: str,
    pq_centroids: Any,
    pq_codebook: Any,
    pq_ip2l2_phi: Any,
    *,
    cache: Optional[Cache] = None,
) -> Step:
    """Encodes the keys that have no codes yet and lists what ``query`` attends to. See the module."""
    key_tuple = (
        sink_size, window_size, heavy_size, pq_group_factor, pq_bits, kmeans_iter, init_offset, metric,
    )
    if cache is not None and cache.index is not None and cache._settings == key_tuple:
        sk = key.shape[2]
        if cache._engine is not None and sk == cache._engine.seq_len + 1:
            lists = cache._engine.step(query, key, weight_list_dtype, sk)
            if lists is not None:
                return Step(*lists, pq_centroids, pq_codebook, pq_ip2l2_phi)
    settings = _settings(key_tuple)
    _check(query, key)
    b, h, _, d = query.shape
    sk = key.shape[2]
    if sk <= settings.full_attention_limit:
        lists = _arrays.everything(query, b, h, sk, weight_list_dtype)
        return Step(*lists, pq_centroids, pq_codebook, pq_ip2l2_phi)

    # Of an index that is made here.
    capacity = sk + keysieve._index.SPARE_TOKENS
    if cache is not None:
        capacity = max(sk, cache.capacity or capacity)
    index = None
    if cache is not None and cache.index is not None:
        if cache._settings != key_tuple:
            raise InvalidArgument.of("cache", "one with other settings", f"{cache._settings}")
        index = cache.index
    elif pq_centroids is not None:
        if pq_codebook is None:
            raise InvalidArgument.of("pq_codebook", "None", "codes, as there are centroids")
        index = _arrays.index(
            settings, pq_centroids, pq_codebook, pq_ip2l2_phi, capacity, _arrays.device(key)
        )
    if index is None:
        index = keysieve.KeyIndex(
            settings.pq, settings.select, training=settings.training, device=_arrays.device(key)
        )
        index.train(key, capacity=capacity)
        is_new = True
    else:
        is_new = False
        seq_len = index.seq_len
        if sk < seq_len:
            raise InvalidArgument.of("key", f"{sk} tokens", f"at least the {seq_len} with codes")
        if sk > seq_len:
            if sk > index.capacity:
                index.reserve(2 * sk)
            index.append(key[:, :, seq_len:])
    if cache is not None:
        if cache.index is not index:
            cache.index, cache._settings, cache._like = index, key_tuple, _arrays.like(key)
            cache._engine = None
    selection = index.select(query)
    width = sink_size + heavy_size + window_size
    if cache is not None and _arrays.is_cuda(query):
        from ._torch_step import TorchStep

        cache._engine = TorchStep(index, selection, query, width)
        lists = cache._engine.lists(weight_list_dtype)
    else:
        lists = _arrays.lists(selection, query, min(width, sk), weight_list_dtype)
    if is_new:
        pq_centroids, pq_ip2l2_phi = _arrays.centroids(index, key)
    if is_new or cache is None:
        pq_codebook = _arrays.codebook(index, key)
    return Step(*lists, pq_centroids, pq_codebook, pq_ip2l2_phi)


def _check(query: Any, key: Any) -> None:
    for name, array in (("query", query), ("key", key)):
        if not hasattr(array, "__dlpack__"):
            raise InvalidType.of(name, type(array).__name__, "a numpy array or a torch tensor")
        if len(array.shape) != 4:
            raise InvalidArgument.of(name, f"shape {tuple(array.shape)}", "four axes")
    if query.shape[2] != 1:
        raise InvalidArgument.of("query", f"shape {tuple(query.shape)}", "[b, h, 1, d]")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise InvalidArgument.of(
            "query",
            f"shape {tuple(query.shape)}",
            f"the batch and d of key, shape {tuple(key.shape)}",
        )
