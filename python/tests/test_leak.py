import gc
import os

import numpy as np
import pytest

import keysieve
from oracle import numbers

STEPS = 100_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc/self/statm")
def test_steps_leave_nothing_behind():
    """Steps of every kind of array, result and error: memory stays what it was after the first tenth."""
    pq = keysieve.PqConfig(num_subvectors=2, bits=2, init_offset=2)
    select = keysieve.SelectConfig(sink=2, window=2, heavy=4, short_context=False, weights=True)
    index = keysieve.KeyIndex(pq, select, device="cpu").train(numbers(1, (1, 1, 64, 4)))
    query = numbers(2, (1, 2, 1, 4))
    forms = [query, query.astype(np.float16), np.asfortranarray(query)]
    wrong = query.astype(np.float64)
    lengths = []
    for step in range(STEPS):
        selection = index.select(forms[step % 3])
        if step % 2:
            np.from_dlpack(selection.positions)
        else:
            np.asarray(selection.weights)
        if step % 5 == 0:
            selection.lengths.__dlpack__()
            with pytest.raises(TypeError):
                index.select(wrong)
        if step % 1000 == 0:
            gc.collect()
            lengths.append(resident())
    before, after = lengths[STEPS // 10_000], lengths[-1]
    # A leak of one array's header at each step would be 8 MB.
    assert after - before < 2 << 20, [length >> 10 for length in lengths]
