"""KeyIndex and Selection: the native index and lists, with the configurations as dataclasses."""

from __future__ import annotations

import os
from typing import Any, Optional, Sequence, Tuple, Union

from . import _native
from ._configs import PqConfig, SelectConfig, TrainConfig
from ._errors import InvalidType
from ._streams import current_stream, stream_number

SPARE_TOKENS = 4096
"""Tokens that an index has room for beside those it is trained on, if no capacity is given."""


class Selection:
    """The positions that every (batch, query head, query) attends to; with
    ``SelectConfig.aggregation`` every (batch, key-value head, query).

    Arrays are exporters of DLPack (``numpy.asarray``, ``torch.from_dlpack``, ...) that share the
    selection's memory; read them, do not write them. On a GPU that memory is the index's: the next step writes it,
    and rows of ``weights`` lie ``capacity`` apart. ``array.copy()`` is an array of its own without gaps, as is what
    a library gets that asks for a copy (``numpy.from_dlpack(array, copy=True)``). JAX does not ask: for what it is to
    keep, or for weights on a GPU, ``jax.dlpack.from_dlpack(array.copy())``.
    """

    __slots__ = ("_native",)

    def __init__(self, native: "_native.Selected") -> None:
        self._native = native

    @property
    def positions(self) -> "_native.Array":
        """int32, or int64 as ``SelectConfig.positions`` says, [batch, heads, num_queries, stride]: ascending, then -1."""
        return self._native.positions

    @property
    def lengths(self) -> "_native.Array":
        """int32 [batch, heads, num_queries]: positions of each list."""
        return self._native.lengths

    @property
    def weights(self) -> Optional["_native.Array"]:
        """float32 [batch, heads, num_queries, seq_len]: 1 at listed positions, 0 elsewhere; None if
        ``SelectConfig.weights`` is off."""
        return self._native.weights

    @property
    def heavy(self) -> Optional[Tuple["_native.Array", "_native.Array"]]:
        """Heavy positions int32 and their scores float32, both [batch, heads, num_queries, heavy],
        ascending by position, then -1 and NaN; None if ``SelectConfig.scores`` is off. On the host."""
        return self._native.heavy

    @property
    def seq_len(self) -> int:
        """Tokens of the context at the step."""
        return self._native.seq_len

    def to_host(self) -> "Selection":
        """The lists in memory of their own on the host. Waits for a GPU."""
        return Selection(self._native.to_host())

    def save(self, path: Union[str, os.PathLike], config: SelectConfig, pq: PqConfig) -> None:
        """Writes a SEL file; ``config`` and ``pq`` are what the selection was made with."""
        self._native.save(os.fspath(path), config, pq)

    def __iter__(self):
        """positions, lengths, weights."""
        return iter((self.positions, self.lengths, self.weights))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        return self._native.equals(other._native)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        positions = self.positions
        return (
            f"Selection(shape={positions.shape[:3]}, seq_len={self.seq_len}, "
            f"device={positions.device!r})"
        )


class KeyIndex:
    """Centroids and codes of one layer's keys: which of them do queries attend to?

    >>> index = KeyIndex(PqConfig(bits=4, init_offset=4), SelectConfig(heavy=8))
    >>> index.train(keys).append(new_keys).select(queries).positions

    ``config`` is the format of the codes, ``select`` what a step lists, ``training`` how centroids are
    found. ``device`` is "cpu", "cuda", "cuda:N", or "auto": a GPU if one answers, else the CPU. Lists are
    the same on both, bit for bit.

    Arrays are whatever has ``__dlpack__``, of float32, float16 or bfloat16, with any strides. Methods may
    be called from several threads: they take turns, and others run Python meanwhile. ``stream`` is the
    CUDA stream that a call with arrays on a GPU works on: a number, or torch's or CuPy's object; without
    one a torch tensor's is torch's current stream, others' the default stream.
    """

    __slots__ = ("_native", "_select", "_training")

    def __init__(
        self,
        config: Optional[PqConfig] = None,
        select: Optional[SelectConfig] = None,
        *,
        training: Optional[TrainConfig] = None,
        device: str = "auto",
    ) -> None:
        config = _expect("config", config, PqConfig)
        self._select = _expect("select", select, SelectConfig)
        self._training = _expect("training", training, TrainConfig)
        self._native = _native.Index(config, device)

    @classmethod
    def _of(cls, native: "_native.Index", select: Optional[SelectConfig]) -> "KeyIndex":
        index = cls.__new__(cls)
        index._native = native
        index._select = _expect("select", select, SelectConfig)
        index._training = TrainConfig()
        return index

    @classmethod
    def load(
        cls,
        path: Union[str, os.PathLike],
        select: Optional[SelectConfig] = None,
        *,
        capacity: Optional[int] = None,
        device: str = "auto",
    ) -> "KeyIndex":
        """Reads an INDEX file (safetensors), with room for ``capacity`` tokens, or for none beside
        those of the file."""
        return cls._of(_native.Index.load(os.fspath(path), device, capacity), select)

    @classmethod
    def from_parts(
        cls,
        config: PqConfig,
        centroids: Any,
        codes: Any,
        *,
        augmentation: Optional[Tuple[Any, Any]] = None,
        capacity: Optional[int] = None,
        select: Optional[SelectConfig] = None,
        device: str = "auto",
    ) -> "KeyIndex":
        """An index of centroids [batch, num_kv_heads, m, 2**bits, sub_dim] and codes
        [batch, num_kv_heads, n, m] (uint8, int32 or int64) of the positions from ``init_offset`` on. With the
        metric "ip" ``augmentation`` is (phis [batch, num_kv_heads, m], the centroids' last components
        [batch, num_kv_heads, m, 2**bits])."""
        config = _expect("config", config, PqConfig)
        phis, components = augmentation if augmentation is not None else (None, None)
        if capacity is None:
            capacity = config.init_offset + int(codes.shape[2]) + SPARE_TOKENS
        native = _native.Index.from_parts(
            config, device, centroids, codes, phis, components, capacity
        )
        return cls._of(native, select)

    def train(
        self, keys: Any, *, capacity: Optional[int] = None, stream: Optional[Any] = None
    ) -> "KeyIndex":
        """Trains a codebook for every (batch, key-value head, sub-vector) on ``keys``
        [batch, num_kv_heads, tokens, head_dim], those from ``init_offset`` on, and encodes them. There is
        room for ``capacity`` tokens in all, for 4096 more than given if it is None. What was in the
        index before is gone. Waits for a GPU. Returns the index."""
        if capacity is None:
            capacity = _tokens(keys) + SPARE_TOKENS
        self._native.train(keys, self._training, capacity, stream_number(keys, stream))
        return self

    def append(self, keys: Any, *, stream: Optional[Any] = None) -> "KeyIndex":
        """Encodes ``keys`` [batch, num_kv_heads, tokens, head_dim] and adds them behind those held.
        Raises CapacityError if they do not fit. Returns the index."""
        self._native.append(keys, 0, stream_number(keys, stream))
        return self

    def select(
        self,
        queries: Any,
        config: Optional[SelectConfig] = None,
        *,
        out: Optional[Sequence[Any]] = None,
        stream: Optional[Any] = None,
    ) -> Selection:
        """Lists the keys that ``queries`` [batch, num_qo_heads, num_queries, head_dim] attend to.

        ``config`` takes the place of the index's own for this call; another configuration or number of
        queries than the last call's takes the index to the host and back, which is slow.
        ``out`` are arrays that are written too, where the queries are: positions (int32 or int64, the shape of
        ``Selection.positions``), lengths (the same types), and weights (float32) if there are any. On a GPU they are
        contiguous and are written in the order of the stream, which may be captured; the last axis of weights is
        then ``seq_len`` or ``capacity``, the latter in a capture. Arrays of JAX raise InvalidType: they never change."""
        config = self._select if config is None else _expect("config", config, SelectConfig)
        if out is not None:
            out = tuple(out)
        number = stream_number(queries, stream)
        return Selection(self._native.select(queries, config, number, out))

    def step(
        self,
        keys: Any,
        queries: Any,
        config: Optional[SelectConfig] = None,
        *,
        out: Optional[Sequence[Any]] = None,
        stream: Optional[Any] = None,
    ) -> Selection:
        """One decode step: ``append`` of one token, ``keys`` [batch, num_kv_heads, 1, head_dim], and ``select``, whose
        ``out`` it has.

        With arrays on a GPU it neither allocates device memory nor waits, once a first ``select`` or step of
        this shape has made what it needs, and whether keys are finite is not asked. Inside a capture (``torch.cuda.graph``) it does nothing now: the graph
        appends and selects at each launch, on the same arrays; call ``replayed`` before each."""
        config = self._select if config is None else _expect("config", config, SelectConfig)
        number = stream_number(queries, stream)
        if out is not None:
            out = tuple(out)
        return Selection(self._native.step(keys, queries, config, number, out))

    def replayed(self, steps: int = 1, *, stream: Optional[Any] = None) -> None:
        """Says that a graph with a captured ``step`` is about to be launched so many times. Without a
        stream it is torch's current one, if torch is imported. Raises CapacityError if there is no room: then do not
        launch it."""
        self._native.replayed(steps, current_stream(stream))

    def reserve(self, capacity: int) -> "KeyIndex":
        """Makes room for ``capacity`` tokens in all; less than there is changes nothing."""
        self._native.reserve(capacity)
        return self

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Writes an INDEX file (safetensors), whole or not at all."""
        self._native.save(os.fspath(path))

    @property
    def config(self) -> PqConfig:
        """The format of codebook and codes."""
        return PqConfig(**self._native.config)

    @property
    def select_config(self) -> SelectConfig:
        """What a step lists unless it is told otherwise."""
        return self._select

    @property
    def device(self) -> str:
        """"cpu" or "cuda"."""
        return self._native.backend

    @property
    def seq_len(self) -> int:
        """Tokens of the context, the unquantised first ``init_offset`` included; 0 before training."""
        return self._native.seq_len

    def __len__(self) -> int:
        return self.seq_len

    @property
    def shape(self) -> Tuple[int, int, int, int]:
        """(batch, num_kv_heads, capacity, head_dim)."""
        return self._native.shape

    @property
    def capacity(self) -> int:
        """Tokens there is room for."""
        return self.shape[2]

    @property
    def centroids(self) -> "_native.Array":
        """A copy: float32 [batch, num_kv_heads, m, 2**bits, sub_dim]."""
        return self._native.centroids

    @property
    def codes(self) -> "_native.Array":
        """A copy: uint8 [batch, num_kv_heads, seq_len - init_offset, m]."""
        return self._native.codes

    @property
    def augmentation(self) -> Optional[Tuple["_native.Array", "_native.Array"]]:
        """With the metric "ip" (phis, the centroids' last components), copied: see ``from_parts``."""
        return self._native.augmentation

    def __repr__(self) -> str:
        return f"KeyIndex({self.config!r}, seq_len={self.seq_len}, device={self.device!r})"


def merge_selections(
    shards: Sequence[Selection], pq: PqConfig, config: SelectConfig
) -> Selection:
    """The list of a whole context from those of its shards, which come in the order of the context and
    were made with ``shard_config``."""
    return Selection(_native.merge_selections([shard._native for shard in shards], pq, config))


def shard_config(
    config: SelectConfig, pq: PqConfig, num_queries: int, seq_len: int, start: int, stop: int
) -> SelectConfig:
    """What the shard that holds positions ``start`` to ``stop`` of a context of ``seq_len`` selects with,
    so that its list can be merged. It changes as the context grows."""
    import dataclasses

    fields = _native.shard_config(config, pq, num_queries, seq_len, start, stop)
    return dataclasses.replace(config, **fields)


def _expect(argument: str, value: Any, kind: type) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise InvalidType.of(argument, type(value).__name__, kind.__name__)
    return value


def _tokens(keys: Any) -> int:
    shape = getattr(keys, "shape", None)
    if shape is None:
        raise InvalidType.of(
            "keys", type(keys).__name__, "an array with __dlpack__ (numpy, torch, cupy, jax)"
        )
    # A wrong number of axes is named by the call itself.
    return int(shape[2]) if len(shape) == 4 else 0
