"""What a user chooses: the format of the codes, how they are trained, what a step selects."""

from __future__ import annotations

import dataclasses
from typing import Optional

from . import _native


@dataclasses.dataclass(frozen=True)
class PqConfig:
    """The format of a codebook and its codes. The defaults are the reference workload's.

    Raises InvalidArgument or InvalidType, naming the field.
    """

    num_subvectors: int = 2
    """Sub-vectors a key is cut into (m), 1 to 64, a divisor of head_dim."""
    bits: int = 6
    """Bits of one code, 1 to 8; a sub-vector has 2**bits centroids."""
    init_offset: int = 128
    """First quantised position: the keys before it have no codes."""
    metric: str = "l2"
    """How the nearest centroid is found: "l2", or "ip", the distance of sub-vectors that one component
    more gives equal norms. Scores are inner products with either."""

    def __post_init__(self) -> None:
        _native.check_config("pq", self)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How centroids are trained: Lloyd's k-means."""

    iterations: int = 10
    """Iterations at most; 0 leaves the start."""
    seed: int = 0
    """Seed of the start; the same seed gives the same centroids."""
    start: Optional[str] = None
    """"plus-plus" (k-means++, on the CPU alone), "sampled" (points drawn by lot), or None: the first on
    the CPU, the second on a GPU."""
    tolerance: float = 0.0
    """A codebook is done when the squared shifts of its centroids are at most so many times their
    squares; 0: when nothing moves."""
    centroids: str = "float32"
    """"float32", or "float16" or "bfloat16", which centroids are rounded to when they are trained."""

    def __post_init__(self) -> None:
        _native.check_config("train", self)


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """What one step lists. The defaults are the reference workload's."""

    sink: int = 128
    """First positions, always listed."""
    window: int = 128
    """Last positions, always listed."""
    heavy: int = 128
    """Best-scoring candidates listed, 0 to 4096."""
    short_context: bool = True
    """List every position while seq_len <= heavy + init_offset + num_queries + 2**bits."""
    weights: bool = False
    """Also give dense weights: 1.0 at listed positions, 0.0 elsewhere."""
    causal: bool = False
    """Query i of a step sees seq_len - num_queries + i + 1 positions; off, every query sees all."""
    aggregation: str = "per-head"
    """"per-head": a list for each query head. "softmax-sum", "max", "mean": one for each key-value head,
    by its query heads' scores put together so."""
    scores: bool = False
    """Also give the heavy positions' scores, for merge_selections."""
    positions: str = "int32"
    """The integers of Selection.positions: "int32" or "int64"."""

    def __post_init__(self) -> None:
        _native.check_config("select", self)
