#!/usr/bin/env python3
"""A decode loop whose step, selection and sparse attention, is one CUDA graph, captured once and launched for every
token while the context grows.

    python cuda_graph_decode.py [--tokens 32000] [--steps 200]
"""

import argparse
import time

import torch

import keysieve
from sparse_decode import sparse_attention


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32_000)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    kv_heads, heads, head_dim = 8, 32, 128
    total = options.tokens + options.steps
    keys = torch.zeros(1, kv_heads, total, head_dim, device="cuda", dtype=torch.bfloat16)
    values = torch.randn_like(keys)
    keys[:, :, : options.tokens].normal_()

    index = keysieve.KeyIndex(device="cuda")
    index.train(keys[:, :, : options.tokens], capacity=total)

    # What a model's layer would write before each step: the new key and the query; and where the key goes.
    new_key = torch.zeros(1, kv_heads, 1, head_dim, device="cuda", dtype=torch.bfloat16)
    query = torch.zeros(1, heads, 1, head_dim, device="cuda", dtype=torch.bfloat16)
    place = torch.zeros(1, device="cuda", dtype=torch.int64)

    def step():
        keys.index_copy_(2, place, new_key)
        return sparse_attention(query, keys, values, index.step(new_key, query))

    # A capture can't allocate what a first call does: one of each before, on a side stream, as torch advises.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        sparse_attention(query, keys, values, index.select(query))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()

    torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(options.steps):
        new_key.normal_()
        query.normal_()
        place.fill_(options.tokens + i)
        index.replayed()
        graph.replay()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / options.steps
    assert index.seq_len == total and torch.isfinite(output).all()
    print(f"{total} tokens, {1e6 * seconds:.1f} us a step")
    return index


if __name__ == "__main__":
    main()
