"""Attention by blocks of queries against torch's own."""

# ruff: noqa: N806

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.training import test_loss
from training.attention import causal_attention, use_causal_blocks
from training.loss import document_positions
from training.model import END_OF_TEXT_ID, make_model, save_model

torch.set_num_threads(1)
SHAPE = test_loss.SHAPE.model_copy(update={"sequence_length": 100})


def inputs(length: int, num_kv_heads: int) -> list[torch.Tensor]:
    """Queries of 4 heads, keys and values; float64."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, 8) for heads in (4, num_kv_heads, num_kv_heads)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 256, 300])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_torch(length: int, num_kv_heads: int) -> None:
    query, key, value = inputs(length, num_kv_heads)
    scaling = 0.3
    expected = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    found = causal_attention(query, key, value, scaling)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, (query, key, value), weights)
    found_gradients = torch.autograd.grad(found, (query, key, value), weights)
    torch.testing.assert_close(found_gradients, expected_gradients)


@pytest.mark.parametrize("masks_documents", [False, True])
def test_a_model_with_it_gives_the_same_logits(masks_documents: bool) -> None:
    model = make_model(SHAPE, 0)
    tokens_BT = torch.randint(1, SHAPE.vocab_size, (3, SHAPE.sequence_length))
    tokens_BT[:, 30] = tokens_BT[:, 71] = END_OF_TEXT_ID
    positions_BT = document_positions(tokens_BT) if masks_documents else None
    with torch.no_grad():
        expected = model(input_ids=tokens_BT, position_ids=positions_BT, use_cache=False).logits
        use_causal_blocks(model)
        found = model(input_ids=tokens_BT, position_ids=positions_BT, use_cache=False).logits
        tokens_BT[:, 60] += 1
        later = model(input_ids=tokens_BT % SHAPE.vocab_size, position_ids=positions_BT, use_cache=False).logits
    torch.testing.assert_close(found, expected)
    assert torch.equal(later[:, :60], found[:, :60]), "a position sees those after it"
    assert not torch.allclose(later[:, 61], found[:, 61])


def test_a_stored_model_does_not_name_it(tmp_path: Path) -> None:
    model = make_model(SHAPE, 0)
    use_causal_blocks(model)
    save_model(model, dict(model.named_parameters()), [], tmp_path / "model")
    assert "causal_blocks" not in json.dumps(json.loads((tmp_path / "model" / "config.json").read_text()))
