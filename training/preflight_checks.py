"""Preflight's comparisons with plain torch. Every value is a relative difference: 0 is equal.

The limits are ten to a thousand times what float32 (bf16 where it says so) gives on a sound machine, as measured in
docs/training.md. A wrong gradient, a lost rank or a broken kernel gives far more than the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from sovereign.plan import Goldfish, Plan, Recipe
from training.loss import LanguageModelLoss
from training.model import make_model, parameter_groups, why_no_compiler
from training.preflight_plan import Check, make_rows, shrunk
from training.preflight_ranks import Case, Trace, Weights
from training.schedule import learning_rate

LOSS_LIMIT = 1e-4
"""Losses and gradient norms of two ways to train, float32."""
WEIGHTS_LIMIT = 0.01
"""Weights after some steps, relative to how far they moved: AdamW makes a full step of the smallest difference."""
OVERLAP_LIMIT = 1e-6
HEAD_LIMIT = 1e-4
COMPILED_LIMIT = 1e-3
BF16_LOSS_LIMIT = 1e-3
BF16_DIRECTION_LIMIT = 0.01
STEP_SIZE_LIMIT = 0.01
"""Of AdamW's first step, where the gradient is far above its epsilon."""


@dataclass(frozen=True)
class Reference:
    """What plain torch gives, with AdamW and clipping but without DeepSpeed."""

    trace: Trace
    start: Weights
    """The weights before the first step."""
    gradient: Weights
    """The first step's gradient, clipped."""


def train_plainly(plan: Plan, world_size: int, device: torch.device) -> Reference:
    """Train the same steps on the whole batches, float32."""
    own = shrunk(plan, zero_stage=0, world_size=world_size)
    recipe = own.recipe
    loss_of, model = _make(own, device)
    optimizer = torch.optim.AdamW(
        parameter_groups(loss_of, recipe), lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), eps=1e-8
    )
    start, first, gradient = _copy(model), {}, {}
    losses, norms = [], []
    for step, rows in enumerate(torch.from_numpy(make_rows(own)).to(device)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        parts = rows.chunk(world_size * recipe.grad_accumulation)  # some losses depend on what is averaged over
        cross_entropies = []
        for part in parts:
            loss = loss_of(part)
            (loss.objective / len(parts)).backward()
            cross_entropies.append(loss.cross_entropy)
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clipping)))
        losses.append(torch.stack(cross_entropies).mean().item())
        if step == 0:
            gradient = _gradient(model)
        optimizer.step()
        if step == 0:
            first = _copy(model)
    return Reference(Trace(losses, norms, first, _copy(model)), start, gradient)


def parity(traces: Mapping[Case, Trace], reference: Reference, world_size: int) -> Iterator[Check]:
    """Each way to train against the reference; overlapping communication against the same without it."""
    ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
    for case, trace in traces.items():
        name = f"ZeRO-{case.zero_stage}, {ranks}"
        if case.overlap_comm:
            other = traces[replace(case, overlap_comm=False)]
            value = _moved_apart(trace.last, other.last, reference.start)
            yield Check(f"{name}: weights with overlapping communication", value, OVERLAP_LIMIT)
        elif case.precision == "bf16":
            value = _apart(trace.losses, reference.trace.losses)
            yield Check(f"{name}, bf16: losses against float32", value, BF16_LOSS_LIMIT)
        else:
            losses = _apart(trace.losses, reference.trace.losses)
            norms = _apart(trace.gradient_norms, reference.trace.gradient_norms)
            yield Check(f"{name}: losses and gradient norms against plain AdamW", _largest([losses, norms]), LOSS_LIMIT)
            value = _moved_apart(trace.last, reference.trace.last, reference.start)
            yield Check(f"{name}: weights against plain AdamW", value, WEIGHTS_LIMIT)


def step_size(trace: Trace, reference: Reference, recipe: Recipe) -> Check:
    """AdamW's first step moves each weight by the learning rate, beside weight decay.

    Its moments are then the gradient and the gradient's square, so their ratio is its sign (Kingma and Ba 2015,
    section 2.1, https://arxiv.org/abs/1412.6980).
    """
    furthest = []
    for name, start in reference.start.items():
        is_large = reference.gradient[name].abs() > 1e-5  # a thousand times AdamW's epsilon
        if not bool(is_large.any()):
            continue
        moved = (trace.first[name] - start)[is_large]
        decayed = moved + (
            recipe.learning_rate * recipe.weight_decay * start[is_large] if _is_decayed(name, start) else 0
        )
        furthest.append(float((decayed.abs() / recipe.learning_rate - 1).abs().max()))
    value = _largest(furthest)  # NaN where no gradient is large enough to tell
    return Check(f"AdamW, ZeRO-{recipe.zero_stage}: first step against the learning rate", value, STEP_SIZE_LIMIT)


def head(plan: Plan, device: torch.device) -> Iterator[Check]:
    """Loss and gradients of the output head, compiled too, against float64 written out; some targets are masked."""
    own = shrunk(plan, zero_stage=0, world_size=1)
    goldfish = Goldfish(k=4, h=13)
    own = own.model_copy(update={"recipe": own.recipe.model_copy(update={"goldfish": goldfish})})
    loss_of, model = _make(own, device)
    random = torch.Generator(device).manual_seed(1)
    rows_BT = torch.from_numpy(make_rows(own)[0]).to(device)  # noqa: N806
    is_learned_BT = torch.rand(rows_BT[:, 1:].shape, generator=random, device=device) > 1 / goldfish.k  # noqa: N806
    hidden_BTD = torch.randn((*rows_BT.shape, own.model.hidden_size), generator=random, device=device)  # noqa: N806
    weight_VD = model.lm_head.weight.detach()  # noqa: N806

    def run(function: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        hidden, weight = (value.to(dtype).requires_grad_() for value in (hidden_BTD, weight_VD))
        loss = function(hidden, weight, rows_BT, is_learned_BT)
        return [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    def own_head(*given: torch.Tensor) -> torch.Tensor:
        objective: torch.Tensor = loss_of.head(*given)[0]
        return objective

    reference = partial(_reference_head, z_coefficient=own.recipe.z_loss, learned_share=1 - 1 / goldfish.k)
    expected = run(reference, torch.float64)
    yield Check(
        "output head, masked labels: against float64", _furthest(run(own_head, torch.float32), expected), HEAD_LIMIT
    )
    if _compiles(plan, device):
        loss_of.head.compile(dynamic=False)
        value = _furthest(run(own_head, torch.float32), expected)
        yield Check("output head, compiled, masked labels: against float64", value, HEAD_LIMIT)


def compiled(plan: Plan, device: torch.device) -> Iterator[Check]:
    """Loss and gradient of the compiled model against the same model as it is written."""
    name = "compiled model: loss and gradient against eager"
    if not _compiles(plan, device):
        yield Check(name, None, COMPILED_LIMIT)
        return
    own = shrunk(plan, zero_stage=0, world_size=1)
    eager = _loss_and_gradient(own, device, compiled=False)
    yield Check(name, _furthest(_loss_and_gradient(own, device, compiled=True), eager), COMPILED_LIMIT)


def bf16(plan: Plan, device: torch.device) -> Iterator[Check]:
    """Loss and direction of the gradient in bf16 against float32."""
    own = shrunk(plan, zero_stage=0, world_size=1)
    loss, gradient = _loss_and_gradient(own, device, compiled=False)
    loss_16, gradient_16 = _loss_and_gradient(own, device, compiled=False, dtype=torch.bfloat16)
    yield Check("bf16: loss against float32", _furthest([loss_16], [loss]), BF16_LOSS_LIMIT)
    cosine = torch.nn.functional.cosine_similarity(gradient_16.double(), gradient.double(), dim=0)
    yield Check("bf16: 1 - cosine of the gradient with float32's", 1 - cosine.item(), BF16_DIRECTION_LIMIT)


def _make(plan: Plan, device: torch.device) -> tuple[LanguageModelLoss, Any]:
    if plan.recipe.threads:
        torch.set_num_threads(plan.recipe.threads)
    recipe = plan.recipe
    loss_of = LanguageModelLoss(make_model(plan.model, recipe.seed, depth_scaled=recipe.depth_scaled_init), recipe)
    loss_of.to(device)
    return loss_of, loss_of.model


def _loss_and_gradient(
    plan: Plan, device: torch.device, *, compiled: bool, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    loss_of, model = _make(plan, device)
    model.to(dtype)
    if compiled:
        loss_of.compile_parts()
    loss = loss_of(torch.from_numpy(make_rows(plan)[0]).to(device)).objective
    loss.backward()
    return [loss.detach(), torch.cat([value.flatten() for value in _gradient(model).values()])]


def _reference_head(
    hidden_BTD: torch.Tensor,  # noqa: N803
    weight_VD: torch.Tensor,  # noqa: N803
    tokens_BT: torch.Tensor,  # noqa: N803
    is_learned_BT: torch.Tensor,  # noqa: N803
    *,
    z_coefficient: float,
    learned_share: float,
) -> torch.Tensor:
    """-log softmax of the targets that are learned over their expected number, and the z-loss over all, written out."""
    logits_NV = (hidden_BTD[:, :-1] @ weight_VD.T).flatten(0, 1)  # noqa: N806
    z_N = logits_NV.exp().sum(1).log()  # noqa: N806
    picked_N = logits_NV.gather(1, tokens_BT[:, 1:].reshape(-1, 1))[:, 0]  # noqa: N806
    learned = (z_N - picked_N)[is_learned_BT.flatten()].sum() / (learned_share * len(z_N))
    return learned + z_coefficient * (z_N**2).mean()


def _compiles(plan: Plan, device: torch.device) -> bool:
    return plan.recipe.compile and (device.type != "cpu" or why_no_compiler() is None)


def _copy(model: torch.nn.Module) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in model.named_parameters()}


def _gradient(model: torch.nn.Module) -> Weights:
    return {name: value.grad.cpu().clone() for name, value in model.named_parameters() if value.grad is not None}


def _is_decayed(name: str, weight: torch.Tensor) -> bool:
    return weight.dim() >= 2 and "embed_tokens" not in name


def _apart(values: list[float], expected: list[float]) -> float:
    """The largest relative difference."""
    return _largest([abs(value - right) / abs(right) for value, right in zip(values, expected, strict=True)])


def _furthest(values: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest ‖a - b‖ / ‖b‖."""
    return _largest(
        [
            float((value.double() - right.double()).norm() / right.double().norm())
            for value, right in zip(values, expected, strict=True)
        ]
    )


def _largest(values: Sequence[float]) -> float:
    """NaN where one is, which `max` would hide behind a number before it; also of nothing."""
    return math.nan if not values or any(map(math.isnan, values)) else max(values)


def _moved_apart(weights: Weights, others: Weights, start: Weights) -> float:
    """‖a - b‖ relative to how far b is from where both began."""
    apart = sum(float((weights[name].double() - others[name].double()).square().sum()) for name in start)
    moved = sum(float((others[name].double() - start[name].double()).square().sum()) for name in start)
    return math.sqrt(apart / moved)
