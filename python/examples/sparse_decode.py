#!/usr/bin/env python3
"""Decode with attention over selected positions only, by torch's scaled_dot_product_attention, and compare with full
attention.

    python sparse_decode.py [--tokens 4000] [--device cpu|cuda]
"""

import argparse

import torch
import torch.nn.functional as F

import keysieve


def sparse_attention(query, keys, values, selection):
    """Attention of one query a head over its listed positions: query [b, h, 1, d], keys and values [b, h_kv, n, d]."""
    positions = torch.from_dlpack(selection.positions)[:, :, 0].to(query.device).long()
    lengths = torch.from_dlpack(selection.lengths)[:, :, 0].to(query.device)
    (batch, heads, width), (_, kv_heads, _, head_dim) = positions.shape, keys.shape
    # Behind a list's end stand -1: they are masked. The lists of a key-value head's query heads one after the other.
    index = positions.clamp(min=0).view(batch, kv_heads, -1, 1).expand(-1, -1, -1, head_dim)
    chosen = [x.gather(2, index).view(batch, heads, width, head_dim) for x in (keys, values)]
    listed = torch.arange(width, device=query.device) < lengths[..., None]
    return F.scaled_dot_product_attention(query, *chosen, attn_mask=listed[:, :, None])


def full_attention(query, keys, values):
    group = query.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    return F.scaled_dot_product_attention(query, keys, values)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    kv_heads, heads, head_dim = 2, 8, 64
    total = options.tokens + options.steps
    # A few directions stand out, as in a model: queries look for some keys much more than for others.
    topics = 1.5 * torch.randn(32, head_dim)
    keys = topics[torch.randint(32, (kv_heads, total))][None] + torch.randn(1, kv_heads, total, head_dim)
    values = torch.randn(1, kv_heads, total, head_dim)
    keys, values, topics = (x.to(options.device) for x in (keys, values, topics))

    config = keysieve.PqConfig(num_subvectors=4, bits=6, init_offset=16)
    select = keysieve.SelectConfig(sink=16, window=64, heavy=512)
    index = keysieve.KeyIndex(config, select, device=options.device)
    index.train(keys[:, :, : options.tokens], capacity=total)
    errors = []
    for step in range(options.steps):
        now = options.tokens + step + 1
        query = 0.5 * topics[torch.randint(32, (heads,))][None, :, None]
        selection = index.step(keys[:, :, now - 1 : now], query)
        sparse = sparse_attention(query, keys[:, :, :now], values[:, :, :now], selection)
        full = full_attention(query, keys[:, :, :now], values[:, :, :now])
        errors.append(((sparse - full).norm() / full.norm()).item())
    attended = int(torch.from_dlpack(selection.lengths).max())
    print(f"{attended} of {now} positions attended to; output differs by {max(errors):.2%} at most")
    return max(errors)


if __name__ == "__main__":
    main()
