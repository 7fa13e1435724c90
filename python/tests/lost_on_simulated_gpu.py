"""Run by test_simulated_gpu.py, in a process of its own: the simulated GPU loses its context, for ever."""

import os
import sys
import time

import numpy as np

import keysieve
from conftest import PQ
from device_tensor import DeviceTensor, Driver
from oracle import numbers

CODES = {"lost": 214, "illegal address": 700}
code = CODES[sys.argv[1]]

keys, queries = numbers(1, (2, 2, 90, 8)), numbers(2, (2, 4, 1, 8))
centroids = numbers(3, (2, 2, 2, 16, 4))
select = keysieve.SelectConfig(sink=6, window=5, heavy=7, weights=True)
empty = np.zeros((2, 2, 0, 2), np.uint8)
index = keysieve.KeyIndex.from_parts(
    PQ, centroids, empty, select=select, device="cuda", capacity=120
).append(keys[:, :, 4:80])
idle = keysieve.KeyIndex(PQ, device="cuda")

driver = Driver(os.environ["KEYSIEVE_LIBCUDA"])
stream = driver.stream()
q, k = DeviceTensor(driver, queries), DeviceTensor(driver, keys[:, :, :1])
out = tuple(
    DeviceTensor(driver, np.zeros(np.asarray(array.shape), np.int32))
    for array in index.select(queries)
    if array.dtype == "int32"
)
selection = index.select(q, stream=stream)
on_host = selection.to_host()
assert len(out) == 2

# Whatever call is next finds the context dead, and so does every later one.
driver.library.sim_driver_fail_call(1, code, 1)

calls = {
    "select": lambda: index.select(queries),
    "select of device arrays": lambda: index.select(q, stream=stream),
    "select into arrays": lambda: index.select(q, out=out, stream=stream),
    "step": lambda: index.step(k, q, stream=stream),
    "step into arrays": lambda: index.step(k, q, out=out, stream=stream),
    "append": lambda: index.append(keys[:, :, :1]),
    "append of device arrays": lambda: index.append(k, stream=stream),
    "train": lambda: idle.train(keys),
    "train on device arrays": lambda: idle.train(q),
    "replayed": lambda: index.replayed(stream=stream),
    "to_host": selection.to_host,
    "hand-over": lambda: selection.positions.__dlpack__(stream=stream),
    "codes": lambda: index.codes,
    "save": lambda: index.save("never.safetensors"),
    "reserve": lambda: index.reserve(200),
    "another configuration": lambda: index.select(queries, keysieve.SelectConfig(heavy=3)),
    "another index": lambda: keysieve.KeyIndex(PQ, device="cuda"),
}
for _ in range(3):
    for name, call in calls.items():
        before = time.perf_counter()
        try:
            call()
        except keysieve.DeviceLost as error:
            assert isinstance(error, RuntimeError) and str(code) in str(error), error
        else:
            raise AssertionError(f"{name} went through")
        assert time.perf_counter() - before < 0.5, name
        assert index.seq_len == 80, name
assert not os.path.exists("never.safetensors")
assert not keysieve.doctor().cuda["works"]

# What is on the host goes on.
assert keysieve.KeyIndex(PQ).device == "cpu"
plain = keysieve.KeyIndex.from_parts(
    PQ, centroids, empty, select=select, device="cpu", capacity=120
).append(keys[:, :, 4:80])
assert plain.select(queries) == on_host
# Some of it goes now; the rest at the interpreter's exit, which must not crash.
del selection
print("lost, and said so")
