"""With JAX on the CPU; skipped, and said so, where it is not installed."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
jnp = jax.numpy

import keysieve
from conftest import SELECT


def taken(array):
    """An array of ours as JAX's own."""
    made = jax.dlpack.from_dlpack(array)
    assert isinstance(made, jax.Array) and str(made.dtype) == array.dtype
    return np.asarray(made)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_arrays_in_and_out(index, keys, queries, dtype):
    """Small whole numbers are the same in every type."""
    select = keysieve.SelectConfig(sink=6, window=5, heavy=7, weights=True)
    wanted = index(keys, select).select(queries)
    made = index(keys[:, :, :80], select).append(jnp.asarray(keys[:, :, 80:], dtype))
    queries = jnp.asarray(queries, dtype)
    for layout in (queries, jnp.asarray(queries.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)):
        got = made.select(layout)
        assert got == wanted
        for ours, theirs in zip(got, wanted):
            for array in (ours, ours.copy()):
                assert np.array_equal(taken(array), np.asarray(theirs))
    assert np.array_equal(taken(made.codes), np.asarray(index(keys).codes))


def test_training(keys):
    training = keysieve.TrainConfig(iterations=2)
    pq = keysieve.PqConfig(bits=4, init_offset=4)
    made = [
        keysieve.KeyIndex(pq, SELECT, training=training, device="cpu").train(array)
        for array in (keys, jnp.asarray(keys))
    ]
    assert np.array_equal(taken(made[1].centroids), np.asarray(made[0].centroids))


def test_results_outlive_the_selection(index, keys, queries):
    selection = index(keys).select(jnp.asarray(queries))
    positions = jax.dlpack.from_dlpack(selection.positions)
    wanted = np.asarray(selection.positions).copy()
    del selection
    assert np.array_equal(np.asarray(positions + 0), wanted)


def test_what_jax_cannot_give_is_named(index, keys, queries):
    made = index(keys)
    with pytest.raises(TypeError, match="queries: got int32, expected float32, float16"):
        made.select(jnp.asarray(queries, "int32"))
    # Inside a trace there is no array.
    with pytest.raises(TypeError, match="queries: got .*Tracer"):
        jax.jit(lambda array: made.select(array) and array)(jnp.asarray(queries))
    # Its arrays never change, so that lists go to none of them.
    selection = made.select(queries)
    out = [jnp.asarray(np.asarray(array)) for array in (selection.positions, selection.lengths)]
    for call in (
        lambda: made.select(queries, out=out),
        lambda: made.step(keys[:, :, :1], queries, out=out),
    ):
        with pytest.raises(TypeError, match="out: positions: got an array of JAX"):
            call()
    assert made.seq_len == keys.shape[2]
