"""Losses: documents of a row apart, z-loss, goldfish loss, activation checkpointing."""

# ruff: noqa: N806

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest
import torch
from torch.nn import functional

from sovereign.plan import Goldfish, ModelShape, Recipe, plan
from sovereign.profile import load_profile
from sovereign.resources import data_path
from training.loss import LanguageModelLoss, document_positions, goldfish_targets
from training.model import END_OF_TEXT_ID, make_model, why_no_compiler

DEMO = plan(load_profile(data_path("templates") / "profiles" / "demo.yaml"))
SHAPE = ModelShape(
    num_layers=2,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    sequence_length=48,
    tied=True,
)
RECIPE = DEMO.recipe.model_copy(update={"document_masking": True})
torch.set_num_threads(1)


def make_loss(recipe: Recipe = RECIPE) -> LanguageModelLoss:
    """A small model with a recipe's losses; its weights are large, so that what it attends to matters."""
    model = make_model(SHAPE, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return LanguageModelLoss(model, recipe)


def documents(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    """Random documents of these lengths; all but the first begin with the mark."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(1, SHAPE.vocab_size, (length,), generator=generator).tolist() for length in lengths]
    return [made[0], *([END_OF_TEXT_ID, *ids[1:]] for ids in made[1:])]


ROWS = [documents(0, (5, 20, 1, 1, 21)), documents(1, (48,)), documents(2, (1, 30, 17))]
"""Three rows of 48 tokens, with documents of one token (the mark alone) and a row without a mark."""


def packed() -> torch.Tensor:
    """The rows as training sees them; shape [3, 48]."""
    return torch.tensor([list(chain(*row)) for row in ROWS])


def test_positions_begin_anew_with_each_document() -> None:
    expected = [list(chain(*(range(len(ids)) for ids in row))) for row in ROWS]
    assert document_positions(packed()).tolist() == expected


def test_logits_of_a_packed_row_are_those_of_the_documents_alone() -> None:
    model = make_loss().model
    tokens_BT = packed()
    with torch.no_grad():
        found = model(input_ids=tokens_BT, position_ids=document_positions(tokens_BT), use_cache=False).logits
        for logits, row in zip(found, ROWS, strict=True):
            alone = torch.cat([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in row])
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


def loss_of_documents_alone(model: Callable[..., Any]) -> torch.Tensor:
    """Mean cross-entropy of all targets, each document by itself; its last target is the mark that comes next."""
    losses = []
    for row in ROWS:
        for ids, following in zip(row, [*row[1:], []], strict=True):
            targets = torch.tensor([*ids[1:], *following[:1]])
            if len(targets):
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, : len(targets)]
                losses.append(functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()


def test_the_loss_and_its_gradient_do_not_cross_documents() -> None:
    loss = make_loss()
    loss(packed()).objective.backward()
    found = {name: parameter.grad for name, parameter in loss.model.named_parameters()}
    loss.zero_grad()
    alone = loss_of_documents_alone(loss.model)
    alone.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss(packed()).cross_entropy, alone.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in loss.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)
    mixed = make_loss(RECIPE.model_copy(update={"document_masking": False}))(packed()).cross_entropy
    assert abs(mixed - alone) > 0.01, "the model does not look at what it must not see: the test shows nothing"


@pytest.mark.filterwarnings("default")  # torch's compiler warns of what it does itself
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.drill)])
def test_compiled_it_is_the_same(backend: str, checkpointing: bool) -> None:
    """The quick backend captures the same graphs, forward and backward; Inductor's C++ takes half a minute of CPU."""
    if backend == "inductor" and (missing := why_no_compiler()):
        pytest.skip(missing)
    additions = {"z_loss": 1e-3, "goldfish": Goldfish(k=4, h=3), "activation_checkpointing": checkpointing}
    loss = make_loss(RECIPE.model_copy(update=additions))
    expected = loss(packed())
    expected.objective.backward()
    gradient = loss.model.lm_head.weight.grad
    assert gradient is not None
    expected_gradient = gradient.clone()
    loss.zero_grad()
    torch.compiler.reset()
    loss.compile_parts(backend)
    found = loss(packed())
    found.objective.backward()
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss.model.lm_head.weight.grad, expected_gradient, rtol=1e-3, atol=1e-4)


def test_without_additions_the_objective_is_the_cross_entropy() -> None:
    loss = make_loss(DEMO.recipe)
    tokens_BT = packed()
    logits = loss.model(input_ids=tokens_BT, use_cache=False).logits[:, :-1].flatten(0, 1)
    found = loss(tokens_BT)
    torch.testing.assert_close(found.objective, functional.cross_entropy(logits, tokens_BT[:, 1:].flatten()))
    assert found.objective.item() == found.cross_entropy.item()
    assert found.z_loss == 0


def test_z_loss_is_added_and_reported_apart() -> None:
    recipe = DEMO.recipe.model_copy(update={"z_loss": 0.01})
    loss, tokens_BT = make_loss(recipe), packed()
    logits = loss.model(input_ids=tokens_BT, use_cache=False).logits[:, :-1]
    expected = 0.01 * logits.exp().sum(dim=-1).log().square().mean()
    found = loss(tokens_BT)
    torch.testing.assert_close(found.z_loss, expected.detach())
    torch.testing.assert_close(found.objective, found.cross_entropy + expected)
    torch.testing.assert_close(found.cross_entropy, make_loss(DEMO.recipe)(tokens_BT).cross_entropy)


def test_goldfish_leaves_out_what_it_says() -> None:
    """The objective is over the kept targets, 2 in 3 expected; the cross-entropy that is reported, over all."""
    recipe = DEMO.recipe.model_copy(update={"goldfish": Goldfish(k=3, h=4)})
    loss, tokens_BT = make_loss(recipe), packed()
    logits = loss.model(input_ids=tokens_BT, use_cache=False).logits[:, :-1].flatten(0, 1)
    losses = functional.cross_entropy(logits, tokens_BT[:, 1:].flatten(), reduction="none")
    is_learned = goldfish_targets(tokens_BT, Goldfish(k=3, h=4)).flatten()
    assert 0 < is_learned.sum() < len(is_learned)
    found = loss(tokens_BT)
    torch.testing.assert_close(found.objective, losses[is_learned].sum() / (len(losses) * 2 / 3))
    torch.testing.assert_close(found.cross_entropy, losses.mean().detach())


def test_goldfish_is_the_same_in_any_micro_batches() -> None:
    recipe = DEMO.recipe.model_copy(update={"goldfish": Goldfish(k=3, h=4)})
    loss, tokens_BT = make_loss(recipe), packed()
    counts = goldfish_targets(tokens_BT, Goldfish(k=3, h=4)).sum(dim=1)
    assert len(set(counts.tolist())) > 1, "all rows leave out as much: the test shows nothing"
    by_row = torch.stack([loss(row_T[None]).objective for row_T in tokens_BT])
    torch.testing.assert_close(loss(tokens_BT).objective, by_row.mean())


@pytest.mark.parametrize(("k", "h"), [(4, 1), (50, 13), (50, 50)])
def test_goldfish_leaves_out_one_in_k_and_depends_on_h_tokens(k: int, h: int) -> None:
    goldfish = Goldfish(k=k, h=h)
    generator = torch.Generator().manual_seed(7)
    tokens_BT = torch.randint(1, 50_000, (64, 512), generator=generator)
    is_learned = goldfish_targets(tokens_BT, goldfish)
    assert is_learned[:, : h - 1].all(), "targets with fewer than h tokens before them are learned"
    share = 1 - is_learned[:, h - 1 :].double().mean().item()
    deviation = (1 / k * (1 - 1 / k) / is_learned[:, h - 1 :].numel()) ** 0.5
    assert abs(share - 1 / k) < 5 * deviation
    changed = tokens_BT.clone()
    changed[:, 100] += 1
    differs = (goldfish_targets(changed, goldfish) != is_learned).any(dim=0).nonzero().flatten()
    assert differs.min() >= 100 and differs.max() <= 100 + h - 1, "only the h targets after a token depend on it"
    assert len(differs) >= min(h, 10) / 2


def test_goldfish_decides_for_a_document_in_the_same_way_wherever_it_stands() -> None:
    goldfish = Goldfish(k=3, h=10)
    ids = documents(3, (1, 40))[1]
    rows = torch.tensor([[*before, *ids, *documents(4, (1, 7))[1]] for before in ([1, 2, 3], [9, END_OF_TEXT_ID, 5])])
    one, other = (goldfish_targets(rows, goldfish)[:, 3 : 3 + len(ids) - 1]).tolist()
    assert one == other
    assert not all(one)


def test_activation_checkpointing_keeps_less_and_gives_the_same_gradient() -> None:
    kept: dict[bool, int] = {}
    gradients: dict[bool, torch.Tensor] = {}
    for checkpointing in (False, True):
        loss = make_loss(RECIPE.model_copy(update={"activation_checkpointing": checkpointing}))
        calls: list[None] = []
        loss.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        size = [0]

        def keep(value: torch.Tensor, size: list[int] = size) -> torch.Tensor:
            size[0] += value.numel() * value.element_size()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            objective = loss(packed()).objective
        kept[checkpointing] = size[0]
        objective.backward()
        assert len(calls) == (2 if checkpointing else 1), "the layer's forward pass runs again in the backward pass"
        gradient = loss.model.lm_head.weight.grad
        assert gradient is not None
        gradients[checkpointing] = gradient
    assert kept[True] < kept[False] / 2
    torch.testing.assert_close(gradients[True], gradients[False])
