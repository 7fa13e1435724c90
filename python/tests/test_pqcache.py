import numpy as np
import pytest

import keysieve
import oracle
from keysieve.compat.pqcache import Cache, indexer_first, indexer_next
from oracle import numbers

SETTINGS = dict(
    sink_size=4, window_size=5, heavy_size=6, pq_group_factor=2, pq_bits=3, kmeans_iter=5, init_offset=3
)
LIMIT = 6 + 3 + 1 + 8


def call(step, query, key, metric, *state, cache=None, dtype=np.float32):
    return step(query, key, dtype, *SETTINGS.values(), metric, *state, cache=cache)


def state(step):
    return step.pq_centroids, step.pq_codebook, step.pq_ip2l2_phi


def lists(step):
    return [
        [row[:n].tolist() for row, n in zip(rows, lengths)]
        for rows, lengths in zip(step.sparse_list, step.sparse_len)
    ]


def check(step, query, key):
    """That a step is what its own centroids and codes say."""
    b, h, sk = query.shape[0], query.shape[1], key.shape[2]
    codes = step.pq_codebook.transpose(0, 2, 1, 3)
    assert step.pq_codebook.dtype == step.sparse_list.dtype == step.sparse_len.dtype == np.int64
    assert step.pq_codebook.shape == (b, sk - 3, key.shape[1], 2)
    centroids = step.pq_centroids[..., :4]
    every = oracle.select(query, centroids, codes, 3, 4, 5, 6)
    assert lists(step) == [[head[0] for head in sequence] for sequence in every]
    weights = np.zeros((b, h, sk))
    for i, j in np.ndindex(b, h):
        weights[i, j, lists(step)[i][j]] = 1
    assert np.array_equal(step.weight_list, weights)


def whole_centroids(step):
    """The step with whole centroids and codes by them, so that scores are exact."""
    shape = step.pq_centroids.shape
    centroids = numbers(9, shape)
    return centroids


@pytest.mark.parametrize("with_cache", [False, True])
def test_euclidean(with_cache):
    keys, queries = numbers(1, (2, 2, 60, 8)), numbers(2, (60, 2, 4, 1, 8))
    cache = Cache() if with_cache else None
    first = call(indexer_first, queries[40], keys[:, :, :40], "euclidean")
    assert first.pq_centroids.shape == (2, 2, 2, 8, 4) and first.pq_ip2l2_phi is None
    centroids = whole_centroids(first)
    codes = oracle.nearest(keys[:, :, 3:40], centroids).transpose(0, 2, 1, 3)
    now = (centroids, codes, None)
    for sk in (41, 42, 45, 45, 60):
        step = call(indexer_next, queries[sk - 1], keys[:, :, :sk], "euclidean", *now, cache=cache)
        if cache is not None:
            assert step.pq_codebook is now[1]
            step = step._replace(pq_codebook=cache.codebook())
        assert np.array_equal(
            step.pq_codebook, oracle.nearest(keys[:, :, 3:sk], centroids).transpose(0, 2, 1, 3)
        )
        check(step, queries[sk - 1], keys[:, :, :sk])
        now = state(step)


def test_inner_product():
    keys, query = numbers(1, (2, 2, 60, 8)), numbers(2, (2, 4, 1, 8))
    first = call(indexer_first, query, keys[:, :, :40], "ip")
    assert first.pq_centroids.shape == (2, 2, 2, 8, 5)
    assert first.pq_ip2l2_phi.shape == (8, 1, 1)
    # A phi is the largest squared norm of its sub-vectors.
    norms = (keys[:, :, 3:40].reshape(2, 2, 37, 2, 4) ** 2).sum(-1).max(2)
    assert np.array_equal(first.pq_ip2l2_phi.reshape(2, 2, 2), norms)
    cache = Cache()
    cached = call(indexer_next, query, keys[:, :, :40], "ip", *state(first), cache=cache)
    assert lists(cached) == lists(first)
    step = call(indexer_next, query, keys, "ip", *state(first))
    cached = call(indexer_next, query, keys, "ip", *state(first), cache=cache)
    assert lists(step) == lists(cached)
    assert np.array_equal(step.pq_codebook, cache.codebook())
    parts = keys[:, :, 3:].reshape(2, 2, 57, 2, 4).astype(np.float64)
    rest = np.sqrt(np.maximum(norms[:, :, None] - (parts**2).sum(-1), 0))
    augmented = np.concatenate([parts, rest[..., None]], -1).reshape(2, 2, 57, 10)
    wanted = oracle.nearest(augmented, first.pq_centroids)
    # Rounding may decide between centroids that are as good as equally near.
    assert (step.pq_codebook.transpose(0, 2, 1, 3) == wanted).mean() > 0.99


def test_full_attention_rule():
    keys, query = numbers(1, (1, 1, 30, 8)), numbers(2, (1, 2, 1, 8))
    cache = Cache()
    for cached in (None, cache):
        step = call(indexer_first, query, keys[:, :, :LIMIT], "euclidean", cache=cached)
        assert lists(step) == [[list(range(LIMIT))] * 2]
        assert step.weight_list.shape == (1, 2, LIMIT) and (step.weight_list == 1).all()
        assert state(step) == (None, None, None)
        # One token more, and there are centroids.
        step = call(
            indexer_next, query, keys[:, :, : LIMIT + 1], "euclidean", *state(step), cache=cached
        )
        assert step.pq_centroids is not None
        assert step.pq_codebook.shape == (1, LIMIT + 1 - 3, 1, 2)
        assert len(lists(step)[0][0]) == 15


def test_a_cache_begins_anew_with_a_first():
    keys, query = numbers(1, (1, 1, 60, 8)), numbers(2, (1, 2, 1, 8))
    cache = Cache(capacity=100)
    long = call(indexer_first, query, keys, "euclidean", cache=cache)
    assert cache.index.capacity == 100 and cache.index.seq_len == 60
    with pytest.raises(ValueError, match="key: got 50 tokens, expected at least the 60"):
        call(indexer_next, query, keys[:, :, :50], "euclidean", *state(long), cache=cache)
    call(indexer_first, query, keys[:, :, :50], "euclidean", cache=cache)
    assert cache.index.seq_len == 50


def test_a_full_cache_grows():
    keys, query = numbers(1, (1, 1, 60, 8)), numbers(2, (1, 2, 1, 8))
    cache = Cache(capacity=40)
    first = call(indexer_first, query, keys[:, :, :40], "euclidean", cache=cache)
    grown = call(indexer_next, query, keys, "euclidean", *state(first), cache=cache)
    plain = call(indexer_next, query, keys, "euclidean", *state(first))
    assert cache.index.capacity == 120
    assert lists(grown) == lists(plain)


def test_wrong_calls():
    keys, query = numbers(1, (1, 1, 60, 8)), numbers(2, (1, 2, 1, 8))
    first = call(indexer_first, query, keys, "euclidean")

    def refused(match, query, key, metric, *state):
        with pytest.raises((ValueError, TypeError), match=match) as caught:
            call(indexer_next, query, key, metric, *state)
        assert isinstance(caught.value, keysieve.KeysieveError)

    refused("metric: got 'cosine'", query, keys, "cosine", None, None, None)
    refused("query: got shape", numbers(2, (1, 2, 3, 8)), keys, "ip", None, None, None)
    refused("query: got shape", query[0], keys, "ip", None, None, None)
    refused("query: got list", [1.0], keys, "ip", None, None, None)
    refused("pq_codebook: got None", query, keys, "euclidean", first.pq_centroids, None, None)
    refused("pq_ip2l2_phi: got None", query, keys, "ip", *state(first))
    cache = Cache()
    call(indexer_first, query, keys, "euclidean", cache=cache)
    with pytest.raises(ValueError, match="cache: got one with other settings"):
        call(indexer_next, query, keys, "ip", *state(first), cache=cache)
