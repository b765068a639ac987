"""One rank of the training engine: the model under DeepSpeed (ZeRO), its steps, and the state that a checkpoint needs.

Reads and writes the engine's state as plain tensors by name, so that checkpoints need no pickle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from sovereign.errors import CheckpointError
from sovereign.plan import Plan
from training import zero
from training.deepspeed_config import PROCESS_GROUP_TIMEOUT, render
from training.environment import Ranks, import_without, set_rendezvous
from training.fragments import MASTER, RANDOM, SCALAR, FragmentReader
from training.model import LanguageModelLoss, make_model, parameter_groups, why_no_compiler
from training.schedule import learning_rate

deepspeed = import_without("deepspeed", "mlflow")  # its autotuner's import of MLflow takes longer than all else here

_EVALUATION_ROWS = 16


def join(ranks: Ranks) -> None:
    """Meet the other ranks; once in a process."""
    deepspeed.utils.logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be built by a C++ compiler at this moment
    if not dist.is_initialized():
        set_rendezvous()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        deepspeed.init_distributed(
            dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=PROCESS_GROUP_TIMEOUT
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)


def gather(value: Any) -> list[Any]:
    """`value` of every rank, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class Engine:
    """The model, its optimizer and DeepSpeed around them."""

    def __init__(self, plan: Plan, weights: Mapping[str, torch.Tensor] | None, warn: Callable[[str], None]) -> None:
        """Args: `weights` to start from on rank 0 (the others get them from there); None takes random ones.

        Raises:
            CheckpointError: the weights are those of another model.
        """
        self.recipe = plan.recipe
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
            torch.use_deterministic_algorithms(True)  # compiled code adds embedding gradients atomically otherwise
            # It would also write to all fresh memory, a quarter of the time, and nothing reads that.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.model = make_model(plan.model, self.recipe.seed)
        if weights is not None:
            _load_weights(self.model, weights)
        self.shapes = {name: tuple(value.shape) for name, value in self.model.named_parameters()}
        """Shape of each parameter, a tied one once."""
        self._names = {id(value): name for name, value in self.model.named_parameters()}
        if self.recipe.activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._loss = LanguageModelLoss(self.model)
        optimizer = torch.optim.AdamW(
            parameter_groups(self._loss, self.recipe),
            lr=self.recipe.learning_rate,
            betas=(self.recipe.beta1, self.recipe.beta2),
            eps=1e-8,
            fused=True,
        )
        if self.recipe.zero_stage == 3:  # evaluation passes by DeepSpeed's engine, which would find out by itself
            deepspeed.zero.register_external_parameter(self._loss.head, self.model.lm_head.weight)
        self._engine, *_ = deepspeed.initialize(model=self._loss, optimizer=optimizer, config=render(plan))
        self._device = self._engine.device
        if self.recipe.compile:
            missing = why_no_compiler() if self._device.type == "cpu" else None
            if missing is None:
                self._loss.compile_parts()
            else:
                warn(f"training is slower, without torch.compile: {missing}")

    def step(self, number: int, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        """Train step `number` on this rank's rows; returns this rank's mean loss (nats) and the gradient norm."""
        rate = learning_rate(self.recipe, number)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        losses = []
        for micro_batch in torch.from_numpy(rows).to(self._device).split(self.recipe.micro_batch):  # type: ignore[no-untyped-call]
            loss = self._engine(micro_batch)
            self._engine.backward(loss)
            self._engine.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item(), float(self._engine.get_global_grad_norm() or 0.0)

    def share(self, loss: float, stop: bool) -> tuple[float, bool]:
        """The mean loss over all ranks, and whether any of them was asked to stop."""
        if dist.get_world_size() == 1:
            return loss, stop
        both = torch.tensor([loss / dist.get_world_size(), float(stop)], dtype=torch.float64, device=self._device)
        dist.all_reduce(both)
        return both[0].item(), bool(both[1].item())

    def evaluate(self, rows: npt.NDArray[np.int64]) -> float:
        """Mean loss (nats) on rows that are not trained on; every rank does the same."""
        total = 0.0
        with torch.no_grad():
            for batch in torch.from_numpy(rows).to(self._device).split(_EVALUATION_ROWS):  # type: ignore[no-untyped-call]
                total += self._loss.forward(batch).item() * len(batch)  # not compiled: the number of rows varies
        return total / len(rows)

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's parameters by name, a tied one once; every rank must call this."""
        parameters = dict(self.model.named_parameters())
        whole = deepspeed.zero.GatheredParameters(list(parameters.values())) if self.recipe.zero_stage == 3 else None
        with whole or nullcontext():
            return {name: value.detach().cpu().clone() for name, value in parameters.items()}

    def spans(self) -> dict[str, tuple[int, int]]:
        """The range of each parameter that this rank keeps."""
        return {one.name: (one.start, one.stop) for part in self._partitions() for one in part.fragments}

    def state(self) -> dict[str, torch.Tensor]:
        """What only this rank has, named as in fragments.py: master weights, moments, random states; copies on CPU."""
        tensors = {f"{RANDOM}/cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors[f"{RANDOM}/cuda"] = torch.cuda.get_rng_state()
        for part in self._partitions():
            for kind, value in {MASTER: part.master.detach(), **part.moments}.items():
                if value.shape != part.master.shape:
                    tensors[f"{SCALAR}/{kind}"] = value
                    continue
                tensors |= {f"{kind}/{one.name}": value[one.place] for one in part.fragments}
        return {name: value.to("cpu", copy=True) for name, value in tensors.items()}

    def load_state(self, reader: FragmentReader, random: Mapping[str, torch.Tensor] | None) -> None:
        """Set master weights, moments and the model's parameters; every rank must call this.

        Args:
            random: states of this rank's random generators; None leaves them as the seed made them.

        Raises:
            CheckpointError: something is not there.
        """
        for part in self._partitions():
            part.moments.clear()
            part.moments.update({name: value.to(part.master.device) for name, value in reader.scalars().items()})
            for kind in reader.kinds:
                if kind == MASTER:
                    values = part.master.data
                else:
                    values = part.moments[kind] = torch.zeros_like(part.master, requires_grad=False)
                for one in part.fragments:
                    values[one.place] = reader.read(kind, one.name, one.start, one.stop)
        zero.update_model(self._engine.optimizer, self.recipe.zero_stage)
        if random is not None:
            torch.set_rng_state(random["cpu"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"])

    def _partitions(self) -> list[zero.Partition]:
        return zero.partitions(self._engine.optimizer, self.recipe.zero_stage, self._names)


def _load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    if {name: value.shape for name, value in weights.items()} != {name: p.shape for name, p in parameters.items()}:
        raise CheckpointError("the weights are those of another model", hint="start from a model of this shape")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
