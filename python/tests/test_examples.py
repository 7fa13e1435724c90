"""The examples run, and do what they say; each is skipped where what it needs is not installed."""

import pathlib
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))


def test_sparse_decode_is_near_full_attention():
    import sparse_decode

    # 15 % of the positions; what is left out shows.
    arguments = ["--tokens", "4000", "--steps", "3", "--device", "cpu"]
    assert 1e-4 < sparse_decode.main(arguments) < 0.2


def test_capture_of_a_hugging_face_model(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    import capture_hf

    import keysieve

    out = tmp_path / "kv.safetensors"
    capture_hf.main(["--tokens", "300", "--queries", "5", "--layer", "1", "--out", str(out)])
    found = safetensors.load_file(out)
    assert found["keys"].shape == (2, 300, 16) and found["queries"].shape == (4, 5, 16)

    # They are what the model's own attention multiplies: its cache has the same keys.
    model = capture_hf.tiny_model()
    tokens = torch.randint(256, (1, 300))
    captured = capture_hf.capture(model, tokens, 1, 5)
    with torch.no_grad():
        cache = model(input_ids=tokens, use_cache=True).past_key_values
    torch.testing.assert_close(captured["keys"], cache.layers[1].keys[0])

    config = keysieve.PqConfig(num_subvectors=2, bits=4, init_offset=8)
    select = keysieve.SelectConfig(sink=8, window=8, heavy=16)
    index = keysieve.KeyIndex(config, select, device="cpu").train(found["keys"][None])
    lengths = np.asarray(index.select(found["queries"][None]).lengths)
    assert (lengths == 32).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_decode_loop_in_a_cuda_graph():
    import cuda_graph_decode

    assert cuda_graph_decode.main(["--tokens", "2000", "--steps", "20"]).seq_len == 2020
