"""What training minimises: the next token's cross-entropy, and what a recipe adds to it or leaves out.

z-loss keeps the logits small, which matters where they are computed in bf16: coefficient x mean of log(Z)^2, Z the
softmax's denominator (Chowdhery et al. 2022, PaLM, section 5, https://arxiv.org/abs/2204.02311). Goldfish loss leaves
one target in k out of the loss, always the same one after the same h tokens, so that the model cannot write a training
text down word for word (Hans et al. 2024, https://arxiv.org/abs/2406.10209). What is left is divided by the expected
number of learned targets, not the own one of each micro-batch, so that the layout changes nothing. Document masking: no
token attends to another document of its row, and positions begin anew with each.

A document begins with the end-of-text mark of the one before, from which its first token is predicted: the context in
which evaluation measures it, too (training/scoring.py). What is cut off at a row's start is a document without a mark.

Suffixes: B sequences, T positions, D width, V vocabulary, N predicted positions.
"""

# ruff: noqa: N803, N806

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from sovereign.plan import Goldfish, Recipe
from training.attention import use_causal_blocks
from training.model import END_OF_TEXT_ID

_MULTIPLIER = 6364136223846793005  # Knuth's 64-bit linear congruential generator (MMIX)
_HIGH_BITS = 33  # the low ones of such a product are hardly mixed


class Losses(NamedTuple):
    """Scalars, nats for each predicted token."""

    objective: torch.Tensor
    """What is minimised."""
    cross_entropy: torch.Tensor
    """Plain mean cross-entropy of all next tokens, whatever is minimised; without gradient."""
    z_loss: torch.Tensor
    """The z-loss in the objective, its coefficient included; without gradient."""


def document_positions(tokens_BT: torch.Tensor, end: int = END_OF_TEXT_ID) -> torch.Tensor:
    """Place of each token in its document, counted from the mark `end` or from the row's start; shape [B, T]."""
    places_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    starts_BT = torch.where(tokens_BT == end, places_T, 0).cummax(dim=1).values
    return places_T - starts_BT


def goldfish_targets(tokens_BT: torch.Tensor, goldfish: Goldfish, end: int = END_OF_TEXT_ID) -> torch.Tensor:
    """Which of tokens_BT[:, 1:] are learned; boolean, shape [B, T - 1].

    A target is left out when a hash of the h tokens before it, or of those back to its document's mark, is a multiple
    of k. It is learned where the row's start hides some of these tokens.
    """
    hashes = torch.zeros_like(tokens_BT[:, 1:])
    is_open = torch.ones_like(hashes, dtype=torch.bool)
    is_hidden = torch.zeros_like(is_open)
    for back in range(min(goldfish.h, tokens_BT.shape[1])):
        before = functional.pad(tokens_BT[:, : hashes.shape[1] - back], (back, 0), value=-1)
        is_hidden |= is_open & (before < 0)
        is_open &= before >= 0
        hashes = torch.where(is_open, (hashes + before + 1) * _MULTIPLIER, hashes)  # wraps around at 64 bits
        is_open &= before != end
    return is_hidden | ((hashes >> _HIGH_BITS) % goldfish.k != 0)


class _Head(torch.nn.Module):
    """Output matrix and losses."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._z_coefficient = recipe.z_loss
        self._learned_share = 1 - 1 / recipe.goldfish.k if recipe.goldfish else 1.0

    def forward(
        self,
        hidden_BTD: torch.Tensor,
        weight_VD: torch.Tensor,
        tokens_BT: torch.Tensor,
        is_learned_BT: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Objective, plain cross-entropy and z-loss."""
        logits_NV = functional.linear(hidden_BTD[:, :-1].flatten(0, 1), weight_VD).float()
        targets_N = tokens_BT[:, 1:].flatten()
        objective = cross_entropy = functional.cross_entropy(logits_NV, targets_N)
        z_loss = torch.zeros_like(cross_entropy)
        if is_learned_BT is not None:
            losses_N = functional.cross_entropy(logits_NV, targets_N, reduction="none")
            objective = (losses_N * is_learned_BT.flatten()).mean() / self._learned_share
        if self._z_coefficient:
            z_loss = self._z_coefficient * logits_NV.logsumexp(dim=1).square().mean()
            objective = objective + z_loss
        return objective, cross_entropy, z_loss


class LanguageModelLoss(torch.nn.Module):
    """A model with the losses of a recipe."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Activation checkpointing, where the recipe has it, is switched on in the model's layers."""
        super().__init__()
        self.model = model
        self._end = int(model.config.eos_token_id)
        self._masks_documents, self._goldfish = recipe.document_masking, recipe.goldfish
        self.head = _Head(recipe)
        if recipe.activation_checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    def forward(self, tokens_BT: torch.Tensor) -> Losses:
        """Losses of predicting tokens_BT[:, 1:]; the last position predicts nothing, so its logits are never made."""
        # transformers makes a mask by document of positions that begin anew: masking_utils.find_packed_sequence_indices
        positions_BT = document_positions(tokens_BT, self._end) if self._masks_documents else None
        output = self.model.model(input_ids=tokens_BT, position_ids=positions_BT, use_cache=False)
        is_learned_BT = goldfish_targets(tokens_BT, self._goldfish, self._end) if self._goldfish else None
        objective, cross_entropy, z_loss = self.head(
            output.last_hidden_state, self.model.lm_head.weight, tokens_BT, is_learned_BT
        )
        return Losses(objective, cross_entropy.detach(), z_loss.detach())

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile a decoder layer, which all layers share, the last norm and the head: much quicker than the whole."""
        if self.model.device.type == "cpu":
            use_causal_blocks(self.model)
        for part in (*self.model.model.layers, self.model.model.norm, self.head):
            part.compile(dynamic=False, backend=backend)
