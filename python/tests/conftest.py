import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import keysieve
from oracle import numbers

PQ = keysieve.PqConfig(num_subvectors=2, bits=4, init_offset=4)
SELECT = keysieve.SelectConfig(sink=6, window=5, heavy=7)


@pytest.fixture
def keys():
    """[batch 2, key-value heads 2, 90 tokens, head_dim 8]"""
    return numbers(1, (2, 2, 90, 8))


@pytest.fixture
def queries():
    """[batch 2, query heads 4, 3 queries, head_dim 8]"""
    return numbers(2, (2, 4, 3, 8))


@pytest.fixture
def index():
    """A KeyIndex on the CPU whose centroids are whole numbers."""

    def make(keys, select=SELECT, pq=PQ, **options):
        import numpy as np

        batch, heads, _, head_dim = keys.shape
        sub_dim = head_dim // pq.num_subvectors
        shape = (batch, heads, pq.num_subvectors, 2**pq.bits, sub_dim)
        codes = np.zeros((batch, heads, 0, pq.num_subvectors), np.uint8)
        options = {"device": "cpu", "capacity": keys.shape[2] + 50, **options}
        made = keysieve.KeyIndex.from_parts(
            pq, numbers(3, shape), codes, select=select, **options
        )
        return made.append(keys[:, :, pq.init_offset :])

    return make
