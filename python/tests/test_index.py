import dataclasses
import threading

import numpy as np
import pytest

import keysieve
import oracle
from conftest import PQ, SELECT
from oracle import numbers, unpadded


def expected(index, keys, queries, select=SELECT):
    centroids = np.asarray(index.centroids)
    codes = oracle.nearest(keys[:, :, PQ.init_offset :], centroids)
    assert np.array_equal(np.asarray(index.codes), codes)
    return oracle.select(
        queries, centroids, codes, PQ.init_offset, select.sink, select.window, select.heavy,
        select.short_context,
    )


def test_lists_are_the_rules(index, keys, queries):
    made = index(keys)
    selection = made.select(queries)
    assert unpadded(selection) == expected(made, keys, queries)
    assert selection.seq_len == made.seq_len == len(made) == 90
    assert selection.weights is None and selection.heavy is None
    assert selection.positions.shape[:3] == selection.lengths.shape == (2, 4, 3)


def test_appended_keys_are_seen(index, keys, queries):
    made = index(keys)
    made.select(queries)
    more = numbers(5, (2, 2, 3, 8))
    assert made.append(more) is made
    both = np.concatenate([keys, more], axis=2)
    assert unpadded(made.select(queries)) == expected(made, both, queries)


def test_a_short_context_is_listed_whole(index, queries):
    keys = numbers(6, (2, 2, 30, 8))
    made = index(keys)
    assert unpadded(made.select(queries))[0][0][0] == list(range(30))
    select = dataclasses.replace(SELECT, short_context=False)
    got = made.select(queries, select)
    assert unpadded(got) == expected(made, keys, queries, select)
    assert len(unpadded(got)[0][0][0]) == 18


def test_training_finds_the_keys_themselves(keys, queries):
    """As many different sub-vectors as centroids: each must become one."""
    few = keys[:, :, :20].copy()
    few[:, :, 4:] = few[:, :, 4:8].repeat(4, axis=2)
    made = keysieve.KeyIndex(PQ, SELECT, device="cpu").train(few)
    centroids, codes = np.asarray(made.centroids), np.asarray(made.codes)
    for b, h, t, s in np.ndindex(codes.shape):
        centroid = centroids[b, h, s, codes[b, h, t, s]]
        assert np.array_equal(centroid, few[b, h, 4 + t, 4 * s : 4 * s + 4])
    assert made.capacity == 20 + 4096
    again = keysieve.KeyIndex(PQ, SELECT, device="cpu").train(few)
    assert np.array_equal(np.asarray(again.centroids), centroids)


def test_weights_are_one_where_listed(index, keys, queries):
    select = dataclasses.replace(SELECT, weights=True)
    made = index(keys, select)
    for _ in range(2):
        positions, lengths, weights = made.select(queries)
        weights = np.asarray(weights)
        assert weights.shape == (2, 4, 3, made.seq_len)
        for b, h, q in np.ndindex(weights.shape[:3]):
            listed = np.asarray(positions)[b, h, q, : np.asarray(lengths)[b, h, q]]
            row = np.zeros(made.seq_len, np.float32)
            row[listed] = 1
            assert np.array_equal(weights[b, h, q], row)
        made.append(numbers(7, (2, 2, 1, 8)))


def test_strides_and_types_do_not_matter(index, keys, queries):
    lists = unpadded(index(keys).select(queries))
    layouts = {
        "fortran": lambda x: np.asfortranarray(x),
        "token-major": lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3),
        "every other": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        "backwards": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
        "float16": lambda x: x.astype(np.float16),
        "float16, strided": lambda x: np.asfortranarray(x.astype(np.float16)),
    }
    for name, layout in layouts.items():
        made = index(layout(keys))
        assert unpadded(made.select(layout(queries))) == lists, name


def test_read_only_arrays_are_read(index, keys, queries):
    lists = unpadded(index(keys).select(queries))
    keys.flags.writeable = queries.flags.writeable = False
    assert unpadded(index(keys).select(queries)) == lists


def test_results_are_exported_without_a_copy(index, keys, queries):
    selection = index(keys).select(queries)
    by_interface, by_dlpack = np.asarray(selection.positions), np.from_dlpack(selection.positions)
    assert by_interface.ctypes.data == by_dlpack.ctypes.data
    assert np.array_equal(by_interface, by_dlpack)
    copy = by_interface.copy()
    del selection
    # The memory lives as long as anything looks at it.
    assert np.array_equal(by_dlpack, copy)


def test_an_export_that_nobody_takes_is_given_back(index, keys, queries):
    positions = index(keys).select(queries).positions
    for version in (None, (1, 0)):
        for copy in (None, False, True):
            positions.__dlpack__(max_version=version, copy=copy)
    with pytest.raises(BufferError, match="dl_device"):
        positions.__dlpack__(dl_device=(2, 0))


def test_copies_have_memory_of_their_own(index, keys, queries):
    select = dataclasses.replace(SELECT, weights=True, scores=True)
    made = index(keys, select)
    selection = made.select(queries)
    for array in (*selection, *selection.heavy, made.codes, made.centroids):
        wanted, copies = np.asarray(array), [np.asarray(array.copy())]
        if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
            copies.append(np.from_dlpack(array, copy=True))
            shared = np.from_dlpack(array, copy=False)
            assert shared.ctypes.data == wanted.ctypes.data
            # The consumer's own, to be written.
            copies[-1][...] = copies[-1][...]
        for copy in copies:
            assert copy.dtype == wanted.dtype and copy.flags.c_contiguous
            assert not np.shares_memory(copy, wanted)
            assert np.array_equal(copy, wanted, equal_nan=copy.dtype == np.float32)
    # Of no elements too.
    none = index(keys[:, :, :4]).codes
    assert none.shape == (2, 2, 0, 2) and np.asarray(none.copy()).shape == none.shape


@pytest.mark.parametrize("integer", [np.int32, np.int64])
def test_out(index, keys, queries, integer):
    select = dataclasses.replace(SELECT, weights=True)
    made = index(keys, select)
    wanted = made.select(queries)
    stride = wanted.positions.shape[3]
    positions = np.zeros((2, 4, 3, 2 * stride), integer)[..., ::2]
    lengths = np.zeros((2, 4, 3), integer)
    weights = np.zeros((2, 4, 3, 90), np.float32)
    got = made.select(queries, out=(positions, lengths, weights))
    assert got == wanted
    assert np.array_equal(positions, np.asarray(wanted.positions))
    assert np.array_equal(lengths, np.asarray(wanted.lengths))
    assert np.array_equal(weights, np.asarray(wanted.weights))

    def refused(kind, match, *out):
        with pytest.raises(kind, match=match):
            made.select(queries, out=out)

    refused(ValueError, "out: got 1 arrays", positions)
    refused(ValueError, "out: lengths: got shape", positions, lengths[:1])
    refused(ValueError, "out: positions: got shape", positions[..., 1:], lengths)
    refused(TypeError, "out: positions: got float32", weights, lengths)
    locked = lengths.copy()
    locked.flags.writeable = False
    refused(ValueError, "out: lengths: got a read-only array", positions, locked)
    with pytest.raises(ValueError, match="out: weights: got an array, expected None"):
        index(keys).select(queries, out=(positions, lengths, weights))

    # A step's too; what cannot be written is refused before a key is appended.
    new = keys[:, :, :1]
    with pytest.raises(ValueError, match="out: weights: got shape"):
        made.step(new, queries, out=(positions, lengths, weights))
    assert made.seq_len == 90
    weights = np.zeros((2, 4, 3, 91), np.float32)
    got = made.step(new, queries, out=(positions, lengths, weights))
    assert np.array_equal(positions, np.asarray(got.positions))
    assert np.array_equal(weights, np.asarray(got.weights))


def test_positions_of_64_bits(index, keys, queries):
    select = keysieve.SelectConfig(sink=6, window=5, heavy=7, positions="int64")
    got = index(keys).select(queries, select)
    wanted = np.asarray(index(keys).select(queries).positions)
    assert got.positions.dtype == "int64" and np.asarray(got.positions).dtype == np.int64
    assert np.array_equal(np.asarray(got.positions), wanted)
    with pytest.raises(ValueError, match="positions: got int16, expected int32 or int64"):
        keysieve.SelectConfig(positions="int16")
    with pytest.raises(TypeError, match="positions"):
        keysieve.SelectConfig(positions=64)


def test_save_and_load(index, keys, queries, tmp_path):
    made = index(keys)
    selection = made.select(queries)
    made.save(tmp_path / "index.safetensors")
    loaded = keysieve.KeyIndex.load(
        tmp_path / "index.safetensors", SELECT, capacity=200, device="cpu"
    )
    assert loaded.config == PQ and loaded.capacity == 200
    # Lists have room for a short context of the index's capacity.
    assert unpadded(loaded.select(queries)) == unpadded(selection)
    selection.save(tmp_path / "sel.safetensors", SELECT, PQ)
    assert (tmp_path / "sel.safetensors").stat().st_size > 1000
    with pytest.raises(keysieve.FileError, match="no-such"):
        keysieve.KeyIndex.load(tmp_path / "no-such", device="cpu")


def test_metric_ip(keys, queries, tmp_path):
    pq = dataclasses.replace(PQ, metric="ip")
    made = keysieve.KeyIndex(pq, SELECT, device="cpu").train(keys, capacity=100)
    phis, components = made.augmentation
    assert phis.shape == (2, 2, 2) and components.shape == (2, 2, 2, 16)
    again = keysieve.KeyIndex.from_parts(
        pq, made.centroids, made.codes, augmentation=(phis, components), select=SELECT, device="cpu"
    )
    more = numbers(8, (2, 2, 5, 8))
    assert unpadded(made.append(more).select(queries)) == unpadded(again.append(more).select(queries))


def test_shards_merge_to_the_whole(index, keys, queries):
    whole = index(keys)
    select = dataclasses.replace(SELECT, short_context=False)
    wanted = whole.select(queries, select)
    cuts, shards = [0, 40, 90], []
    for start, stop in zip(cuts, cuts[1:]):
        shard_select = keysieve.shard_config(select, PQ, 3, 90, start, stop)
        pq = PQ if start == 0 else dataclasses.replace(PQ, init_offset=0)
        codes = np.asarray(whole.codes)[:, :, max(start - 4, 0) : stop - 4]
        shard = keysieve.KeyIndex.from_parts(pq, whole.centroids, codes, device="cpu")
        shards.append(shard.select(queries, shard_select))
        where, scores = shards[-1].heavy
        assert where.shape == scores.shape
    assert unpadded(keysieve.merge_selections(shards, PQ, select)) == unpadded(wanted)


def test_several_threads_use_one_index(index, keys, queries):
    """Each thread's queries have their own answer, whoever works at the same time."""
    made = index(keys)
    cases = [numbers(100 + i, (2, 4, 3, 8)) for i in range(8)]
    wanted = [unpadded(made.select(case)) for case in cases]
    wrong = []

    def work(i):
        for _ in range(50):
            if unpadded(made.select(cases[i])) != wanted[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_interpreter_runs_while_the_library_works():
    """Another thread counts during one long training."""
    keys = np.random.default_rng(0).standard_normal((1, 8, 40_000, 64), np.float32)
    counts, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counts[0] += 1
            done.wait(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    before = counts[0]
    keysieve.KeyIndex(device="cpu").train(keys)
    during = counts[0] - before
    done.set()
    thread.join()
    assert during > 20


def test_configurations():
    assert keysieve.PqConfig() == keysieve.PqConfig(2, 6, 128, "l2")
    assert keysieve.SelectConfig() != keysieve.SelectConfig(heavy=64)
    assert repr(PQ) == "PqConfig(num_subvectors=2, bits=4, init_offset=4, metric='l2')"
    assert hash(PQ) == hash(dataclasses.replace(PQ))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PQ.bits = 3
    assert keysieve.__version__.count(".") == 2


@pytest.mark.parametrize(
    "kind, fields, argument",
    [
        (keysieve.PqConfig, {"bits": 9}, "bits"),
        (keysieve.PqConfig, {"bits": -1}, "bits"),
        (keysieve.PqConfig, {"bits": 2.5}, "bits"),
        (keysieve.PqConfig, {"num_subvectors": 0}, "num_subvectors"),
        (keysieve.PqConfig, {"init_offset": 2**40}, "init_offset"),
        (keysieve.PqConfig, {"metric": "cosine"}, "metric"),
        (keysieve.PqConfig, {"metric": None}, "metric"),
        (keysieve.TrainConfig, {"start": "anywhere"}, "start"),
        (keysieve.TrainConfig, {"tolerance": -1.0}, "tolerance"),
        (keysieve.TrainConfig, {"tolerance": "none"}, "tolerance"),
        (keysieve.TrainConfig, {"centroids": "int8"}, "centroids"),
        (keysieve.SelectConfig, {"heavy": 5000}, "heavy"),
        (keysieve.SelectConfig, {"sink": True}, "sink"),
        (keysieve.SelectConfig, {"causal": 1}, "causal"),
        (keysieve.SelectConfig, {"aggregation": "median"}, "aggregation"),
    ],
)
def test_configurations_that_cannot_be(kind, fields, argument):
    with pytest.raises((ValueError, TypeError), match=argument) as caught:
        kind(**fields)
    assert isinstance(caught.value, keysieve.KeysieveError)
    assert caught.value.argument == argument
    assert caught.value.got and caught.value.expected


def test_arrays_that_cannot_be(index, keys, queries):
    made = index(keys)
    before = unpadded(made.select(queries))

    def refused(kind, match, call):
        with pytest.raises(kind, match=match) as caught:
            call()
        assert isinstance(caught.value, keysieve.KeysieveError)
        assert unpadded(made.select(queries)) == before

    refused(TypeError, "queries: got .*list", lambda: made.select([[1.0]]))
    refused(TypeError, "queries: got float64", lambda: made.select(queries.astype(np.float64)))
    refused(TypeError, "keys: got int32", lambda: made.append(keys.astype(np.int32)))
    refused(ValueError, r"queries: got shape \[4, 3, 8\]", lambda: made.select(queries[0]))
    refused(ValueError, "queries: batch", lambda: made.select(queries[:1]))
    refused(ValueError, "queries: num_qo_heads", lambda: made.select(queries[:, :3]))
    refused(ValueError, "queries: head_dim", lambda: made.select(queries[..., :4]))
    refused(ValueError, "queries: num_queries", lambda: made.select(queries[:, :, :0]))
    refused(ValueError, "keys: num_kv_heads", lambda: made.append(keys[:, :1]))
    refused(keysieve.CapacityError, "keys: got 90 more", lambda: made.append(keys))
    bad = keys[:, :, :1].copy()
    bad[1, 0, 0, 3] = np.nan
    refused(ValueError, r"NaN at \[batch 1, head 0", lambda: made.append(bad))
    refused(TypeError, "config: got dict", lambda: made.select(queries, {}))
    complex_keys = keys.astype(np.complex64)
    refused(TypeError, "keys: got complex64", lambda: made.append(complex_keys))


def test_an_untrained_index_says_so(keys, queries):
    made = keysieve.KeyIndex(PQ, SELECT, device="cpu")
    assert made.seq_len == 0
    with pytest.raises(ValueError, match="train or load first"):
        made.append(keys)
    with pytest.raises(ValueError, match="train or load first"):
        made.select(queries)
    with pytest.raises(ValueError, match="more than init_offset"):
        made.train(keys[:, :, :4])
    with pytest.raises(ValueError, match="device: got tpu"):
        keysieve.KeyIndex(device="tpu")


def test_codes_that_cannot_be(index, keys):
    made = index(keys)
    centroids, codes = made.centroids, np.asarray(made.codes).astype(np.int64)
    parts = keysieve.KeyIndex.from_parts
    with pytest.raises(ValueError, match="codes: got 300"):
        parts(PQ, centroids, np.full_like(codes, 300))
    with pytest.raises(ValueError, match="codes: got 16 at"):
        parts(PQ, centroids, np.full_like(codes, 16))
    with pytest.raises(ValueError, match="codes: got shape"):
        parts(PQ, centroids, codes[:1])
    with pytest.raises(TypeError, match="codes: got float32"):
        parts(PQ, centroids, codes.astype(np.float32))
    with pytest.raises(ValueError, match="centroids: got shape"):
        parts(PQ, np.asarray(centroids)[:, :, :1], codes)


def test_an_index_grows(index, keys, queries):
    made = index(keys, capacity=90)
    wanted = unpadded(made.select(queries))
    with pytest.raises(keysieve.CapacityError):
        made.append(keys[:, :, :1])
    assert made.reserve(95) is made and made.capacity == 95
    assert unpadded(made.select(queries)) == wanted
    made.append(keys[:, :, :5])
    assert made.seq_len == 95


def test_doctor_says_what_works():
    report = keysieve.doctor()
    assert report.version == keysieve.__version__
    assert "CPU" in report.cpu and "works" in str(report)
    assert report.cuda["works"] or report.cuda["reason"]


def test_errors_can_be_pickled():
    import pickle

    with pytest.raises(keysieve.InvalidArgument) as caught:
        keysieve.PqConfig(bits=9)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.argument) == (str(caught.value), "bits")
