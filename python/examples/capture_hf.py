#!/usr/bin/env python3
"""Write the keys and queries of one layer of a Hugging Face model to a KV file, as attention sees them (behind the
rotary embedding): what `keysieve eval --kv` and `keysieve train --kv` read.

    python capture_hf.py MODEL TEXT_FILE --layer 8 --out kv.safetensors [--tokens 8000] [--queries 64]

The queries are those of the last tokens. Without MODEL a tiny randomly initialised Llama reads random tokens.
"""

import argparse
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "keysieve_capture"


def capture(model, input_ids, layer, num_queries):
    """Keys [num_kv_heads, tokens, head_dim] and queries [num_qo_heads, num_queries, head_dim] of a layer, of one
    forward pass over `input_ids` [1, tokens]."""
    captured = {}

    def attention(module, query, key, value, attention_mask, **options):
        if module.layer_idx == layer:
            captured["keys"] = key[0].detach()
            captured["queries"] = query[0, :, -num_queries:].detach()
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    transformers.AttentionMaskInterface.register(
        NAME, transformers.masking_utils.sdpa_mask
    )
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        with torch.no_grad():
            model(input_ids=input_ids, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    if not captured:
        raise SystemExit(f"--layer: got {layer}, expected a layer of the model")
    return captured


def tiny_model():
    """Random weights, no download."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    return transformers.LlamaForCausalLM(config).eval()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("text", nargs="?", type=pathlib.Path)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("kv.safetensors"))
    options = parser.parse_args(arguments)
    if options.model is None:
        model = tiny_model()
        input_ids = torch.randint(256, (1, options.tokens))
    else:
        if options.text is None:
            parser.error("TEXT_FILE: got none, expected a text for the model to read")
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype="auto").eval()
        if torch.cuda.is_available():
            model = model.cuda()
        text = options.text.read_text()
        input_ids = tokenizer(text, return_tensors="pt").input_ids[:, : options.tokens]
        input_ids = input_ids.to(model.device)
    found = capture(model, input_ids, options.layer, options.queries)
    save_file({name: x.cpu().contiguous() for name, x in found.items()}, options.out)
    shapes = ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in found.items())
    print(f"{options.out}: {shapes}")


if __name__ == "__main__":
    main()
