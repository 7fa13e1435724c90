"""With torch, on the CPU and, where there is one, on a GPU. KEYSIEVE_REQUIRE_GPU=1 makes a missing one a failure."""

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import keysieve
import keysieve.torch_ops as ops
import oracle
from conftest import PQ, SELECT
from keysieve.compat.pqcache import Cache, indexer_first, indexer_next
from oracle import numbers, unpadded

HAS_GPU = torch.cuda.is_available()
if os.environ.get("KEYSIEVE_REQUIRE_GPU") == "1":
    assert HAS_GPU, "torch finds no GPU"
gpu = pytest.mark.skipif(not HAS_GPU, reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def tensor(array, device="cpu", dtype=torch.float32):
    return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)


def lists(positions, lengths):
    rows = zip(positions.cpu().reshape(-1, positions.shape[-1]), lengths.cpu().flatten())
    return [row[:n].tolist() for row, n in rows]


def wanted(index, keys, queries):
    selection = index(keys).select(queries)
    return [row for sequence in unpadded(selection) for head in sequence for row in head]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "token-major", "sliced"])
def test_tensors_of_every_kind(index, keys, queries, device, dtype, layout):
    """Small whole numbers are the same in every type."""

    def laid_out(array):
        made = tensor(array, device, dtype)
        if layout == "token-major":
            return made.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "sliced":
            return torch.stack([made, -made], dim=-1)[..., 0]
        return made

    # The key behind the centroids is in the given type too.
    made = index(keys[:, :, :80], device=device)
    made.append(laid_out(keys[:, :, 80:]))
    selection = made.select(laid_out(queries))
    positions, lengths = map(torch.from_dlpack, (selection.positions, selection.lengths))
    assert positions.device.type == device
    assert lists(positions, lengths) == wanted(index, keys, queries)


def test_a_tensor_that_needs_gradients_is_named(index, keys, queries):
    with pytest.raises(TypeError, match="queries: got .*gradient"):
        index(keys).select(tensor(queries).requires_grad_())


def test_devices_must_agree(index, keys, queries):
    with pytest.raises(TypeError, match="queries: got"):
        index(keys).select(tensor(queries).to("meta"))


@gpu
def test_a_cpu_index_refuses_a_gpu_tensor(index, keys, queries):
    with pytest.raises(ValueError, match="queries: got cuda:0, expected cpu"):
        index(keys).select(tensor(queries, "cuda"))


PQCACHE = (4, 5, 6, 2, 3, 5, 3)
# Lists of 44 positions, which grow with the context until they are full.
GROWING = (4, 34, 6, 2, 3, 5, 3)


@pytest.mark.parametrize("settings", [PQCACHE, GROWING])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_pqcache(device, dtype, metric, settings):
    """With a cache and without one, and numpy on the CPU with the same centroids: the same lists."""
    keys, queries = numbers(1, (2, 2, 60, 8)), numbers(2, (60, 2, 4, 1, 8))
    key, query = tensor(keys, device, dtype), tensor(queries, device, dtype)
    cache = Cache(capacity=64)
    first = indexer_first(query[40], key[:, :, :40], dtype, *settings, metric, cache=cache)
    state = first[3:]
    assert state[1].dtype is torch.int64 and state[0].device.type == device
    for sk in (40, 41, 42, 43, 46, 47, 60):
        args = (query[sk - 1], key[:, :, :sk], dtype, *settings, metric)
        cached = indexer_next(*args, *first[3:], cache=cache)
        plain = indexer_next(*args, *state)
        on_host = [None if part is None else part.cpu().numpy() for part in state]
        host = indexer_next(
            queries[sk - 1], keys[:, :, :sk], np.float32, *settings, metric, *on_host
        )
        state = plain[3:]
        assert cached[0].dtype is cached[1].dtype is torch.int64 and cached[2].dtype is dtype
        assert lists(cached[0], cached[1]) == lists(plain[0], plain[1])
        assert np.array_equal(plain[0].cpu().numpy(), host[0])
        assert cached[0].shape == plain[0].shape == (2, 4, min(sum(settings[:3]), sk))
        for step in (cached, plain):
            assert step[2].shape == (2, 4, sk)
            assert np.array_equal(step[2].float().cpu().numpy(), host[2])
        assert torch.equal(cache.codebook(), state[1])


def test_pqcache_lists_a_short_context_whole():
    key, query = torch.ones(1, 1, 18, 8), torch.ones(1, 2, 1, 8)
    step = indexer_first(query, key, torch.float16, *PQCACHE, "euclidean")
    assert lists(step[0], step[1]) == [list(range(18))] * 2
    assert step[2].dtype is torch.float16 and (step[2] == 1).all()
    assert step[3:] == (None, None, None)


@pytest.mark.parametrize("device", DEVICES)
def test_operators(index, keys, queries, device):
    made = index(keys[:, :, :80], device=device)
    state = ops.register(made)
    query = tensor(queries, device)
    heads, stride = ops.list_shape(made, query)
    torch.library.opcheck(ops.select, (state, query, heads, stride))
    # Each run of an append is another append: what is compared between runs is left out.
    checks = ("test_schema", "test_faketensor")
    new = tensor(keys[:, :, 80:81], device)
    torch.library.opcheck(ops.append, (state, new), test_utils=checks)
    with pytest.raises(ValueError, match="heads, stride"):
        ops.select(state, query, heads, stride + 1)
    ops.unregister(state)
    with pytest.raises(ValueError, match="state: got index"):
        ops.select(state, query, heads, stride)


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_function_is_one_graph(index, keys, queries, device):
    made = index(keys[:, :, :80], device=device)
    state = ops.register(made)
    query, new = tensor(queries, device), tensor(keys[:, :, 80:], device)
    heads, stride = ops.list_shape(made, query)

    def step(state, new, query):
        ops.append(state, new)
        positions, lengths = ops.select(state, query * 1.0, heads, stride)
        return positions + 0, lengths

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    got = compiled(state, new, query)
    assert int(state[1]) == made.seq_len == 90
    assert lists(*got) == wanted(index, keys, queries)
    ops.unregister(state)


@gpu
def test_the_current_stream_is_used(index, keys, queries):
    """Inputs that a long kernel before them in the stream writes."""
    made = index(keys, device="cuda")
    made.select(tensor(queries, "cuda"))
    query = torch.zeros(queries.shape, device="cuda")
    source = tensor(queries, "cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        query.copy_(source)
        selection = made.select(query)
        positions = torch.from_dlpack(selection.positions).clone()
        lengths = torch.from_dlpack(selection.lengths).clone()
    # Nobody has waited so far.
    assert not stream.query()
    stream.synchronize()
    assert lists(positions, lengths) == wanted(index, keys, queries)


@gpu
def test_a_step_in_a_cuda_graph(index, keys, queries):
    made, plain = index(keys[:, :, :60], device="cuda"), index(keys[:, :, :60])
    query, new = tensor(queries, "cuda"), tensor(keys[:, :, 60:61], "cuda")
    made.select(query)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        selection = made.step(new, query)
        positions = torch.from_dlpack(selection.positions).clone()
        lengths = torch.from_dlpack(selection.lengths).clone()
    assert made.seq_len == 60
    for at in range(60, 90):
        new.copy_(tensor(keys[:, :, at : at + 1], "cuda"))
        query.copy_(tensor(numbers(at, queries.shape), "cuda"))
        made.replayed()
        graph.replay()
        expected = plain.step(keys[:, :, at : at + 1], numbers(at, queries.shape))
        flat = [row for s in unpadded(expected) for head in s for row in head]
        assert lists(positions, lengths) == flat
    assert np.array_equal(np.asarray(made.codes), np.asarray(plain.codes))


@gpu
@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_lists_into_tensors(index, keys, queries, integer):
    """On torch's current stream and in its graphs, without a wait."""
    select = keysieve.SelectConfig(sink=6, window=5, heavy=7, weights=True)
    made, plain = index(keys[:, :, :60], select, device="cuda"), index(keys[:, :, :60], select)
    query, new = tensor(queries, "cuda"), tensor(keys[:, :, 60:61], "cuda")
    shape = tuple(made.select(query).positions.shape)
    positions = torch.zeros(shape, dtype=integer, device="cuda")
    lengths = torch.zeros(shape[:3], dtype=integer, device="cuda")
    weights = torch.zeros((*shape[:3], made.capacity), device="cuda")
    out = (positions, lengths, weights)

    def same(expected):
        assert np.array_equal(positions.cpu().numpy(), np.asarray(expected.positions))
        assert np.array_equal(lengths.cpu().numpy(), np.asarray(expected.lengths))
        seen = weights[..., : expected.seq_len].cpu().numpy()
        assert np.array_equal(seen, np.asarray(expected.weights))

    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        made.select(query, out=out)
    assert not stream.query()
    stream.synchronize()
    assert torch.cuda.mem_get_info()[0] == free
    same(plain.select(queries))
    made.step(new, query, out=out)
    same(plain.step(keys[:, :, 60:61], queries))
    with pytest.raises(ValueError, match="contiguous"):
        made.select(query, out=(positions.transpose(0, 1).contiguous().transpose(0, 1), lengths))
    with pytest.raises(ValueError, match="out: positions: got cpu"):
        made.select(query, out=(positions.cpu(), lengths.cpu()))

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made.step(new, query, out=out)
    for at in range(61, 80):
        new.copy_(tensor(keys[:, :, at : at + 1], "cuda"))
        made.replayed()
        graph.replay()
        same(plain.step(keys[:, :, at : at + 1], queries))


@gpu
def test_steps_allocate_nothing(index, keys, queries):
    key, query = tensor(numbers(1, (1, 2, 200, 8)), "cuda"), tensor(queries[:1, :, :1], "cuda")
    cache = Cache(capacity=200)
    state = indexer_first(query, key[:, :, :100], torch.float32, *PQCACHE, "euclidean", cache=cache)
    indexer_next(query, key[:, :, :101], torch.float32, *PQCACHE, "euclidean", *state[3:], cache=cache)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"], torch.cuda.mem_get_info()[0]
    for sk in range(102, 200):
        indexer_next(
            query, key[:, :, :sk], torch.float32, *PQCACHE, "euclidean", *state[3:], cache=cache
        )
    torch.cuda.synchronize()
    after = torch.cuda.memory_stats()["allocation.all.allocated"], torch.cuda.mem_get_info()[0]
    assert before == after


@gpu
def test_many_steps_on_a_gpu_leave_nothing_behind(index, keys, queries):
    made = index(keys, device="cuda")
    query = tensor(queries, "cuda")
    made.select(query)
    torch.cuda.synchronize()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(20_000):
        torch.from_dlpack(made.select(query).positions)
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == free
