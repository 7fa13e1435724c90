"""The rules once more, in plain numpy. Keys, queries and centroids are small whole numbers in these
tests: every sum is exact, whatever its order, and lists must be equal."""

import numpy as np


def numbers(seed, shape, low=-4, high=5):
    """Whole numbers from ``low`` to below ``high``, as float32."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def nearest(keys, centroids):
    """Codes [batch, heads, tokens, m] of keys [batch, heads, tokens, head_dim]."""
    batch, heads, tokens, _ = keys.shape
    m, sub_dim = centroids.shape[2], centroids.shape[4]
    parts = keys.astype(np.float64).reshape(batch, heads, tokens, m, 1, sub_dim)
    known = centroids.astype(np.float64)[:, :, None]
    distances = ((parts - known) ** 2).sum(-1)
    # argmin takes the first of equals.
    return distances.argmin(-1)


def scores(queries, centroids, codes):
    """[batch, query heads, queries, n], of codes [batch, key heads, n, m]."""
    batch, query_heads, num_queries, _ = queries.shape
    _, heads, m, _, sub_dim = centroids.shape
    group = query_heads // heads
    out = np.zeros((batch, query_heads, num_queries, codes.shape[2]))
    parts = queries.astype(np.float64).reshape(batch, query_heads, num_queries, m, sub_dim)
    for b in range(batch):
        for h in range(query_heads):
            table = np.einsum("qmd,mcd->qmc", parts[b, h], centroids[b, h // group])
            for s in range(m):
                out[b, h] += table[:, s, codes[b, h // group, :, s]]
    return out


def positions(row_scores, seq_len, sink, window, heavy, init_offset, limit):
    """One list, from the scores of positions init_offset and on."""
    if seq_len <= limit:
        return list(range(seq_len))
    first, last = max(init_offset, sink), max(seq_len - window, 0)
    candidates = range(first, max(first, last))
    best = sorted(candidates, key=lambda p: (-row_scores[p - init_offset], p))[:heavy]
    ends = set(range(min(sink, seq_len))) | set(range(max(seq_len - window, 0), seq_len))
    return sorted(ends | set(best))


def select(queries, centroids, codes, init_offset, sink, window, heavy, short_context=True):
    """Lists [batch][query head][query] of positions."""
    seq_len = init_offset + codes.shape[2]
    limit = heavy + init_offset + queries.shape[2] + centroids.shape[3] if short_context else 0
    every = scores(queries, centroids, codes)
    return [
        [
            [positions(row, seq_len, sink, window, heavy, init_offset, limit) for row in head]
            for head in sequence
        ]
        for sequence in every
    ]


def unpadded(selection):
    """A selection's lists in the same form."""
    where, lengths = np.asarray(selection.positions), np.asarray(selection.lengths)
    lists = []
    for b in range(where.shape[0]):
        lists.append([])
        for h in range(where.shape[1]):
            lists[-1].append([])
            for q in range(where.shape[2]):
                row, n = where[b, h, q], lengths[b, h, q]
                assert (row[n:] == -1).all()
                lists[-1][-1].append(row[:n].tolist())
    return lists
