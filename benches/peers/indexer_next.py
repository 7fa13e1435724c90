#!/usr/bin/env python3
"""`indexer_next` of keysieve.compat.pqcache with a cache against the same step in eager PyTorch, in one run.

Both take the query and all keys so far, encode the one new key, and give sorted positions, their number and dense
weights. The eager step, written from the formulae, appends to a codebook of fixed room. Answers are compared
first, at the sizes that are timed: keysieve's lists must hold the best `heavy` candidates by scores computed in
float64 from its own centroids and codes, the eager lists likewise by theirs. Keys with the same codes have equal scores, among
which torch's topk takes any, so whole lists need not be equal; the share that is is printed. A difference ends the run without a time.

Times are of the wall clock: one call and a wait for the GPU at its end (`one call`), and calls that follow each other
without a wait, divided by their number (`in a row`); beside them the same between two events of the stream.

    python indexer_next.py [--tokens 32000] [--heads 32] [--dtype float32] [--json out.json]

Needs torch with CUDA, and the package keysieve.
"""

import argparse
import json
import statistics
import time

import torch

import keysieve
from keysieve.compat.pqcache import Cache, indexer_first, indexer_next


class Eager:
    """The step on the whole arrays, as one would write it with torch's operators."""

    def __init__(self, centroids, codebook, room, sink, window, heavy, init_offset):
        self.centroids = centroids  # [b, h, m, c, sub_dim]
        b, n, h, m = codebook.shape
        self.codes = torch.zeros(b, h, m, room, dtype=torch.int64, device=codebook.device)
        self.codes[..., :n] = codebook.permute(0, 2, 3, 1)
        self.n = n
        self.half_norms = 0.5 * (centroids * centroids).sum(-1)
        self.sink, self.window, self.heavy, self.init_offset = sink, window, heavy, init_offset

    def __call__(self, query, key, dtype):
        b, h, m, c, sub_dim = self.centroids.shape
        sk = key.shape[2]
        new = key[:, :, -1].float().reshape(b, h, m, 1, sub_dim)
        affinities = (new * self.centroids).sum(-1) - self.half_norms
        self.codes[..., self.n] = affinities.argmax(-1)
        self.n += 1
        q = query.float().reshape(b, h, m, sub_dim, 1)
        table = torch.matmul(self.centroids, q).squeeze(-1)
        scores = table.gather(3, self.codes[..., : self.n]).sum(2)
        start = max(self.init_offset, self.sink)
        scores = scores[:, :, start - self.init_offset : sk - self.window - self.init_offset]
        heavy = scores.topk(self.heavy, dim=-1).indices + start
        ends = torch.cat(
            [
                torch.arange(self.sink, device=key.device),
                torch.arange(sk - self.window, sk, device=key.device),
            ]
        ).expand(b, h, -1)
        positions = torch.cat([heavy, ends], dim=-1).sort(dim=-1).values
        lengths = torch.full((b, h), positions.shape[-1], dtype=torch.int64, device=key.device)
        weights = torch.zeros(b, h, sk, dtype=dtype, device=key.device)
        weights.scatter_(2, positions, 1.0)
        return positions, lengths, weights


def check(name, lists, query, codes, eager):
    """That the list's candidates are as good as the best, by float64 scores of those codes."""
    positions, lengths, weights = lists
    b, h, m, c, sub_dim = eager.centroids.shape
    sk = weights.shape[-1]
    q = query.double().reshape(b, h, m, sub_dim, 1)
    table = torch.matmul(eager.centroids.double(), q).squeeze(-1)
    scores = table.gather(3, codes).sum(2)
    start = max(eager.init_offset, eager.sink)
    candidates = scores[:, :, start - eager.init_offset : sk - eager.window - eager.init_offset]
    heavy = positions[..., eager.sink : -eager.window]
    assert (lengths == eager.sink + eager.heavy + eager.window).all(), f"{name}: lengths"
    assert (positions.diff(dim=-1) > 0).all(), f"{name}: positions do not ascend"
    assert (heavy >= start).all() and (heavy < sk - eager.window).all(), f"{name}: not candidates"
    got = candidates.gather(2, heavy - start).sort(dim=-1, descending=True).values
    best = candidates.topk(eager.heavy, dim=-1).values
    worst = ((got - best).abs() / best.abs().clamp(min=1.0)).max().item()
    assert worst < 1e-5, f"{name}: a listed score is {worst:.2e} off the best"
    marked = torch.zeros_like(weights).scatter_(2, positions, 1.0)
    assert torch.equal(weights, marked), f"{name}: weights"


def times(step, calls):
    """(one call and a wait, calls in a row, the same between events) in microseconds, medians."""
    alone, in_a_row, on_gpu = [], [], []
    for _ in range(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        alone.append(time.perf_counter() - start)
    for _ in range(10):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start = time.perf_counter()
        first.record()
        for _ in range(calls // 10):
            step()
        last.record()
        torch.cuda.synchronize()
        in_a_row.append((time.perf_counter() - start) / (calls // 10))
        on_gpu.append(first.elapsed_time(last) * 1e-3 / (calls // 10))
    return [1e6 * statistics.median(values) for values in (alone, in_a_row, on_gpu)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32_000)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--subvectors", type=int, default=2)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--json")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    sink = window = heavy = init_offset = 128
    settings = (sink, window, heavy, options.subvectors, options.bits, 10, init_offset, "euclidean")

    # Every call takes one token more: all of them are there from the beginning.
    warm_up, calls = 50, options.calls
    room = options.tokens + warm_up + 2 * calls + 10
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (1, options.heads, room, options.head_dim)
    keys = torch.randn(shape, generator=generator, device="cuda").to(dtype)
    shape = (1, options.heads, 1, options.head_dim)
    query = torch.randn(shape, generator=generator, device="cuda").to(dtype)

    cache = Cache(capacity=room)
    seen = keys[:, :, : options.tokens - 1]
    first = indexer_first(query, seen, torch.float32, *settings, cache=cache)
    eager = Eager(
        first.pq_centroids, first.pq_codebook, room, sink, window, heavy, init_offset
    )
    length = {"keysieve": options.tokens - 1, "eager": options.tokens - 1}

    def ours():
        length["keysieve"] += 1
        now = keys[:, :, : length["keysieve"]]
        step = indexer_next(query, now, torch.float32, *settings, *first[3:], cache=cache)
        return step[:3]

    def theirs():
        length["eager"] += 1
        return eager(query, keys[:, :, : length["eager"]], torch.float32)

    for _ in range(warm_up):
        got, expected = ours(), theirs()
        codes = cache.codebook().permute(0, 2, 3, 1)
        check("keysieve", got, query, codes, eager)
        check("eager", expected, query, eager.codes[..., : eager.n], eager)
        same_codes = (codes == eager.codes[..., : eager.n]).float().mean().item()
        assert same_codes > 0.9999, f"codes agree for {same_codes}"
    same = (got[0] == expected[0]).all(-1).float().mean().item()

    rows = {"keysieve": times(ours, calls), "eager PyTorch": times(theirs, calls)}
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, keysieve {keysieve.__version__}")
    print(
        f"{options.heads} heads, {options.tokens} tokens, head_dim {options.head_dim}, m {options.subvectors}, "
        f"bits {options.bits}, sink, window, heavy 128, {options.dtype}; "
        f"{same:.1%} of the lists equal, all as good as the best"
    )
    print("| indexer_next | one call, us | in a row, us | between events, us |\n| --- | --- | --- | --- |")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": device, "options": vars(options), "us": rows}, file, indent=1)


if __name__ == "__main__":
    main()
