"""Run by test_simulated_gpu.py, in a process of its own whose libcuda is the simulated one."""

import ctypes
import math
import os

import numpy as np

import keysieve
from conftest import PQ, SELECT
from device_tensor import Copied, DeviceTensor, Driver, Stream, VersionedTensor, opened
from oracle import numbers, unpadded

keys, queries = numbers(1, (2, 2, 90, 8)), numbers(2, (2, 4, 1, 8))
centroids = numbers(3, (2, 2, 2, 16, 4))
codes = np.zeros((2, 2, 0, 2), np.uint8)
select = keysieve.SelectConfig(sink=6, window=5, heavy=7, weights=True)


def index(device, tokens=80):
    made = keysieve.KeyIndex.from_parts(
        PQ, centroids, codes, select=select, device=device, capacity=120
    )
    return made.append(keys[:, :, 4:tokens])


report = keysieve.doctor()
assert report.cuda["works"], report
on_gpu, on_cpu = index("cuda"), index("cpu")
assert on_gpu.device == "cuda"
# Arrays of the host.
assert on_gpu.select(queries).to_host() == on_cpu.select(queries)
positions = np.zeros(on_cpu.select(queries).positions.shape, np.int64)
lengths = np.zeros((2, 4, 1), np.int64)
on_gpu.select(queries, out=(positions, lengths))
assert np.array_equal(positions, np.asarray(on_cpu.select(queries).positions))

driver = Driver(os.environ["KEYSIEVE_LIBCUDA"])
stream, other = driver.stream(), driver.stream()


def same(selection, expected):
    """Read where the lists are, and brought to the host."""
    driver("cuCtxSynchronize")
    assert selection.positions.device == "cuda:0"
    assert np.array_equal(driver.read(selection.positions), np.asarray(expected.positions))
    assert np.array_equal(driver.read(selection.lengths), np.asarray(expected.lengths))
    assert np.array_equal(driver.read(selection.weights), np.asarray(expected.weights))
    assert selection.to_host() == expected
    assert selection.seq_len == expected.seq_len


for dtype in (np.float32, np.float16):
    for order in ((0, 1, 2, 3), (3, 1, 2, 0)):
        at = on_cpu.seq_len
        q = DeviceTensor(driver, queries.astype(dtype), order)
        same(on_gpu.select(q, stream=stream), on_cpu.select(queries))
        assert q.streams == [stream]
        k = DeviceTensor(driver, keys[:, :, at : at + 1].astype(dtype), order)
        same(on_gpu.step(k, q, stream=other), on_cpu.step(keys[:, :, at : at + 1], queries))
        k = DeviceTensor(driver, keys[:, :, at + 1 : at + 2].astype(dtype), order)
        on_gpu.append(k, stream=stream)
        on_cpu.append(keys[:, :, at + 1 : at + 2])
        # No stream: the default one.
        same(on_gpu.select(q), on_cpu.select(queries))
        assert q.streams[-1] == 1
assert np.array_equal(np.asarray(on_gpu.codes), np.asarray(on_cpu.codes))
# As CuPy's arrays and streams come.
q = VersionedTensor(driver, queries)
same(on_gpu.select(q, stream=Stream(stream)), on_cpu.select(queries))
assert q.streams == [stream]
assert DeviceTensor.exported == DeviceTensor.given_back > 0

# A consumer's stream waits for the step; the capsule is what it takes.
selection = on_gpu.select(q, stream=stream)
for consumer in (stream, other, 1, 2, -1, None):
    selection.positions.__dlpack__(stream=consumer)
try:
    selection.positions.__dlpack__(stream=0)
    raise AssertionError("stream 0 was taken")
except keysieve.InvalidArgument as error:
    assert error.argument == "stream"
assert not hasattr(selection.positions, "__array_interface__")

# Copies have no gaps, and what a later step writes does not reach them.
expected = on_cpu.select(queries)
for array, wanted in zip(selection, expected):
    copies = [array.copy(), array.copy().copy(), Copied(array, stream), Copied(array, None)]
    for made in copies:
        address, shape, strides, _ = opened(made)
        assert address != opened(array)[0]
        assert strides == [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # Without a copy it is the step's own memory.
    assert opened(Copied(array, stream, copy=False))[0] == opened(array)[0]
    kept = [(made, np.asarray(wanted).copy()) for made in copies]
    on_gpu.select(DeviceTensor(driver, -queries), stream=other)
    driver("cuCtxSynchronize")
    for made, wanted in kept:
        assert np.array_equal(driver.read(made), wanted)
    on_gpu.select(q, stream=stream)
weights = selection.weights
assert opened(weights)[2][2] == 120 > weights.shape[3]
copy = weights.copy()
for consumer in (stream, other, 1, 2, -1, None):
    copy.__dlpack__(stream=consumer)
for device in ((1, 0), (2, 1)):
    try:
        weights.__dlpack__(stream=stream, dl_device=device)
        raise AssertionError("another device was taken")
    except BufferError as error:
        assert "dl_device" in str(error)


def refused(match, call):
    before = on_gpu.seq_len
    try:
        call()
    except keysieve.KeysieveError as error:
        assert match in str(error), error
    else:
        raise AssertionError(f"not refused: {match}")
    assert on_gpu.seq_len == before


elsewhere = DeviceTensor(driver, queries, device_id=3)
refused("queries: got cuda:3, expected cuda:0", lambda: on_gpu.select(elsewhere))
refused("queries: got cuda:0, expected cpu", lambda: on_cpu.select(q))
refused("keys: got cuda:0, expected cpu", lambda: on_cpu.append(k))
refused("keys: got cpu", lambda: on_gpu.step(keys[:, :, :1], q))
refused("keys: got shape [2, 2, 2, 8]", lambda: on_gpu.step(DeviceTensor(driver, keys[:, :, :2]), q))
refused("keys: got 90 more", lambda: on_gpu.append(DeviceTensor(driver, keys)))

# Into arrays of the caller's.
room = 120


def outs(dtype=np.int32, width=None):
    shape = (2, 4, 1)
    stride = on_cpu.select(queries).positions.shape[3]
    arrays = [np.full((*shape, stride), 7, dtype), np.full(shape, 7, dtype)]
    if width is not None:
        arrays.append(np.full((*shape, width), 7, np.float32))
    return tuple(DeviceTensor(driver, array) for array in arrays)


def written(out, expected):
    driver("cuCtxSynchronize")
    arrays = [driver.read(array) for array in out]
    assert arrays[0].dtype == out[0].array.dtype
    assert np.array_equal(arrays[0], np.asarray(expected.positions))
    assert np.array_equal(arrays[1], np.asarray(expected.lengths))
    if len(out) == 3:
        seen = arrays[2][..., : expected.seq_len]
        assert np.array_equal(seen, np.asarray(expected.weights))


for dtype, width in ((np.int32, None), (np.int64, on_cpu.seq_len), (np.int64, room)):
    out = outs(dtype, width)
    same(on_gpu.select(q, out=out, stream=stream), on_cpu.select(queries))
    written(out, on_cpu.select(queries))
    assert out[0].streams[0] == stream
out = outs(np.int64, on_cpu.seq_len + 1)
new = keys[:, :, :1]
k = DeviceTensor(driver, new)
expected = on_cpu.step(new, queries)
same(on_gpu.step(k, q, out=out, stream=other), expected)
written(out, expected)

mixed = (outs(np.int64)[0], outs(np.int32)[1])
on_gpu.select(q, out=mixed, stream=stream)
written(mixed, on_cpu.select(queries))
a, b, c = outs(width=room)
refused("out: got 1 arrays", lambda: on_gpu.select(q, out=(a,)))
refused("out: positions: got cpu, expected cuda:0", lambda: on_gpu.select(q, out=(positions, lengths)))
refused("out: positions: got cuda:0, expected cpu", lambda: on_gpu.select(queries, out=(a, b)))
refused("out: positions: got cuda:0, expected cpu", lambda: on_cpu.step(new, queries, out=(a, b)))
refused("out: positions: got float32", lambda: on_gpu.select(q, out=(c, b)))
refused("out: lengths: got shape", lambda: on_gpu.step(k, q, out=(a, a)))
refused("out: weights: got shape", lambda: on_gpu.step(k, q, out=(a, b, outs(width=3)[2])))
apart = DeviceTensor(driver, a.array, (3, 0, 1, 2))
refused("expected a contiguous array, on a GPU", lambda: on_gpu.select(q, out=(apart, b)))
locked = VersionedTensor(driver, b.array)
on_gpu.select(q, out=(a, locked), stream=Stream(other))
written((a, locked), on_cpu.select(queries))
locked.is_read_only = True
refused("out: lengths: got a read-only array", lambda: on_gpu.select(q, out=(a, locked)))
elsewhere = DeviceTensor(driver, b.array, device_id=3)
refused("out: lengths: got cuda:3, expected cuda:0", lambda: on_gpu.select(q, out=(a, elsewhere)))

# A graph of the caller's.
graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
at = on_cpu.seq_len
new = keys[:, :, at - 15 : at - 14]
k = DeviceTensor(driver, new)
handle = ctypes.c_void_p(stream)
out, short = outs(np.int64, room), outs(width=at + 1)
driver("cuStreamBeginCapture_v2", handle, 0)
refused("on a captured stream", lambda: on_gpu.step(k, q, out=short, stream=stream))
captured = on_gpu.step(k, q, out=out, stream=stream)
# A consumer in the same capture.
captured.positions.__dlpack__(stream=stream)
# A copy would be made now.
refused("stream: got a captured one", lambda: captured.weights.__dlpack__(stream=stream, copy=True))
refused("stream: got a captured one", lambda: copy.__dlpack__(stream=stream))
driver("cuStreamEndCapture", handle, ctypes.byref(graph))
driver("cuGraphInstantiate_v2", ctypes.byref(executable), graph, None, None, ctypes.c_size_t(0))
assert on_gpu.seq_len == at
for _ in range(3):
    on_gpu.replayed(stream=stream)
    driver("cuGraphLaunch", executable, handle)
    expected = on_cpu.step(new, queries)
    driver("cuCtxSynchronize")
    assert np.array_equal(driver.read(captured.positions), np.asarray(expected.positions))
    written(out, expected)
    assert on_gpu.select(queries).to_host() == expected
refused("keys: got 1000 more", lambda: on_gpu.replayed(1000, stream=stream))

# Steps told by addresses, as the cache of compat.pqcache makes them.
from keysieve import _native

stepper = _native.Stepper(on_gpu._native, select, 4)


def place(array):
    batch, head, _, component = array.strides
    return (array.address, {"float32": 0, "float16": 1}[str(array.array.dtype)], batch, head, component)


for dtype in (np.float32, np.float16):
    k = DeviceTensor(driver, new.astype(dtype), (3, 1, 2, 0))
    q = DeviceTensor(driver, queries.astype(dtype), (3, 1, 2, 0))
    assert stepper.step(place(k), place(q), stream) == on_cpu.seq_len + 1
    expected = on_cpu.step(new, queries)
    driver("cuCtxSynchronize")
    assert np.array_equal(driver.read(captured.positions), np.asarray(expected.positions))
    assert np.array_equal(
        driver.read(captured._native.padded_weights)[..., : on_cpu.seq_len],
        np.asarray(expected.weights),
    )
refused("key: got 7, expected type", lambda: stepper.step((4, 7, 0, 0, 0), place(q), stream))
refused("query: address: got 0x1", lambda: stepper.step(place(k), (1, 0, 0, 0, 0), stream))
refused("stream: got 0", lambda: stepper.step(place(k), place(q), 0))
on_gpu.select(queries, keysieve.SelectConfig(heavy=3))
refused("index: got one that works with another", lambda: stepper.step(place(k), place(q), stream))

# Positions of 64 bits.
wide = keysieve.SelectConfig(sink=6, window=5, heavy=7, weights=True, positions="int64")
selection = on_gpu.select(q, wide, stream=stream)
expected = on_cpu.select(queries, wide)
assert selection.positions.dtype == expected.positions.dtype == "int64"
assert np.array_equal(np.asarray(expected.positions), np.asarray(on_cpu.select(queries).positions))
same(selection, expected)
# As the cache of compat.pqcache steps.
stepper = _native.Stepper(on_gpu._native, wide, 4)
assert stepper.step(place(k), place(q), stream) == on_cpu.seq_len + 1
expected = on_cpu.step(new, queries, wide)
driver("cuCtxSynchronize")
assert np.array_equal(driver.read(selection.positions), np.asarray(expected.positions))

# Results outlive the index that they are of.
expected = np.asarray(on_cpu.select(queries).positions)
positions = on_gpu.select(q).positions
held = driver.free_memory()
copied = positions.copy()
del on_gpu, selection, captured, stepper
driver("cuCtxSynchronize")
assert np.array_equal(driver.read(positions), expected)
# A copy does not keep it.
del positions
assert driver.free_memory() > held
assert np.array_equal(driver.read(copied), expected)

# Keys in device memory train as those of the host.
few = np.random.default_rng(0).standard_normal((1, 2, 200, 8), np.float32)
training = keysieve.TrainConfig(iterations=2)
trained = [
    keysieve.KeyIndex(PQ, SELECT, training=training, device="cuda").train(array)
    for array in (few, DeviceTensor(driver, few), DeviceTensor(driver, few, (0, 2, 1, 3)))
]
for made in trained[1:]:
    assert np.array_equal(np.asarray(made.centroids), np.asarray(trained[0].centroids))
    assert np.array_equal(np.asarray(made.codes), np.asarray(trained[0].codes))
# An index that has selected nothing yet takes keys from the device too.
trained[0].append(few[:, :, :5])
trained[1].append(DeviceTensor(driver, few[:, :, :5]))
assert np.array_equal(np.asarray(trained[0].codes), np.asarray(trained[1].codes))
print("all as on the CPU")
