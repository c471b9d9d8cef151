"""Families of bases that the native decoder computes, against transformers and PEFT in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from inference.adapters.slots import LoraSlots
from inference.adapters.store import AdapterStore
from inference.decoders.native.bank import NativeBank
from inference.decoders.native.build import library_path, missing_feature
from inference.decoders.native.decoder import NativeDecoder, unsupported
from inference.model.architecture import read_architecture
from inference.model.weights import load_weights
from tests.inference.checkpoints import load_base, load_reference, make_adapter
from tests.inference.families import LLAMA3, make_family
from tests.inference.passes import Passes, answer

pytestmark = pytest.mark.skipif(missing_feature() is not None, reason=f"not here: {missing_feature()}")

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1 + 0.1 * at for at in range(16)],
    "long_factor": [1 + 0.5 * at for at in range(16)],
}
COMPUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {}),
    "phi3": ("phi3", {}),
    "phi3, short context": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 128}),
}
BLOCK_SIZE, CONTEXT, NUM_TOKENS = 32, 128, 5


@pytest.mark.parametrize("name", COMPUTED)
def test_a_family_and_an_adapter_on_all_its_linears_equal_transformers(tmp_path: Path, name: str) -> None:
    variant, shape = COMPUTED[name]
    model, store = make_family(tmp_path / "model", variant, **HEADS, **shape), tmp_path / "adapters"
    store.mkdir()
    digest = make_adapter(model, store, 0, 0.1, target_modules="all-linear")
    architecture = read_architecture(model / "config.json").within(CONTEXT)
    assert unsupported(architecture, BLOCK_SIZE) is None
    weights, bank = load_weights(model, architecture, torch.float32), NativeBank(4)
    decoder = NativeDecoder(architecture, weights, bank, library_path(), BLOCK_SIZE, 1)
    slot = LoraSlots(4, AdapterStore(store, load_base(model)).load, bank).acquire(digest)
    texts = [list(range(40)), list(range(60, 95))]
    passes = Passes(decoder, block_size=BLOCK_SIZE, dtype=torch.float32)
    logits, replies = answer(passes, texts, [-1, slot or 0], NUM_TOKENS)
    adapted = PeftModel.from_pretrained(load_reference(model), store / digest).eval()
    for told, text, reply, got in zip((load_reference(model), adapted), texts, replies, logits, strict=True):
        with torch.no_grad():
            expected = told(torch.tensor([text + reply[:-1]])).logits[0, len(text) - 1 :]
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
        assert reply == expected.argmax(-1).tolist()
