"""What differs between numpy and torch, and between our arrays and PQCache's."""

from __future__ import annotations

import sys
from typing import Any, Optional, Tuple

import keysieve

from .._errors import InvalidArgument


def _torch_of(array: Any) -> Optional[Any]:
    """torch, if the array is one of its tensors."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else None


def device(array: Any) -> str:
    """The device of an index for keys like ``array``."""
    if _torch_of(array) is None or not array.is_cuda:
        return "cpu"
    return f"cuda:{array.device.index or 0}"


def like(array: Any) -> Any:
    """An empty array of the same library on the same device."""
    return array[:0]


def _put(array: "keysieve.Array", like: Any) -> Any:
    """Our array as one of ``like``'s library, where that is."""
    torch = _torch_of(like)
    if torch is None:
        import numpy

        return numpy.asarray(array)
    return torch.from_dlpack(array).to(like.device)


def everything(query: Any, b: int, h: int, sk: int, dtype: Any) -> Tuple[Any, Any, Any]:
    """The lists of full attention."""
    torch = _torch_of(query)
    if torch is None:
        import numpy

        positions = numpy.broadcast_to(numpy.arange(sk, dtype=numpy.int64), (b, h, sk)).copy()
        return positions, numpy.full((b, h), sk, numpy.int64), numpy.ones((b, h, sk), dtype)
    device = query.device
    positions = torch.arange(sk, dtype=torch.int64, device=device).expand(b, h, sk).contiguous()
    lengths = torch.full((b, h), sk, dtype=torch.int64, device=device)
    return positions, lengths, torch.ones((b, h, sk), dtype=dtype, device=device)


def is_cuda(array: Any) -> bool:
    """Whether it is a torch tensor on a GPU."""
    return _torch_of(array) is not None and array.is_cuda


def lists(
    selection: keysieve.Selection, query: Any, width: int, dtype: Any
) -> Tuple[Any, Any, Any]:
    """A selection of one query a head in PQCache's shapes and types, copied."""
    torch = _torch_of(query)
    positions = _put(selection.positions, query)[:, :, 0, :width]
    lengths = _put(selection.lengths, query)[:, :, 0]
    weights = _put(selection.weights, query)[:, :, 0]
    if torch is None:
        import numpy

        return positions.astype(numpy.int64), lengths.astype(numpy.int64), weights.astype(dtype)
    positions = positions.to(torch.int64, copy=True)
    return positions, lengths.to(torch.int64), weights.to(dtype, copy=True)


def centroids(index: keysieve.KeyIndex, like: Any) -> Tuple[Any, Any]:
    """PQCache's centroids and phis."""
    plain = _put(index.centroids, like)
    added = index.augmentation
    if added is None:
        return plain, None
    phis, components = (_put(array, like) for array in added)
    phis = phis.reshape(-1, 1, 1)
    torch = _torch_of(like)
    if torch is None:
        import numpy

        return numpy.concatenate([plain, components[..., None]], axis=-1), phis
    return torch.cat([plain, components.unsqueeze(-1)], dim=-1), phis


def codebook(index: keysieve.KeyIndex, like: Any) -> Any:
    """PQCache's codes, int64 [b, n, h_kv, m]."""
    codes = _put(index.codes, like)
    torch = _torch_of(like)
    if torch is None:
        import numpy

        return codes.transpose(0, 2, 1, 3).astype(numpy.int64)
    return codes.permute(0, 2, 1, 3).to(torch.int64)


def _on_host(array: Any) -> Any:
    return array.detach().cpu() if _torch_of(array) is not None else array


def index(
    settings: Any, pq_centroids: Any, pq_codebook: Any, pq_ip2l2_phi: Any, capacity: int, device: str
) -> keysieve.KeyIndex:
    """An index of PQCache's arrays."""
    if len(pq_codebook.shape) != 4:
        shape = tuple(pq_codebook.shape)
        raise InvalidArgument.of("pq_codebook", f"shape {shape}", "[b, n, h_kv, m]")
    centroids = _on_host(pq_centroids)
    codes = _on_host(pq_codebook)
    codes = (
        codes.transpose(0, 2, 1, 3) if _torch_of(codes) is None else codes.permute(0, 2, 1, 3)
    )
    augmentation = None
    if settings.pq.metric == "ip":
        if pq_ip2l2_phi is None:
            raise InvalidArgument.of("pq_ip2l2_phi", "None", "phis, as metric 'ip' has")
        groups = tuple(centroids.shape[:3])
        augmentation = (_on_host(pq_ip2l2_phi).reshape(groups), centroids[..., -1])
        centroids = centroids[..., :-1]
    return keysieve.KeyIndex.from_parts(
        settings.pq,
        centroids,
        codes,
        augmentation=augmentation,
        capacity=capacity,
        select=settings.select,
        device=device,
    )
