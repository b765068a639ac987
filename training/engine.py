"""One rank of the training engine: the model under DeepSpeed (ZeRO), its steps, and the state that a checkpoint needs.

Reads and writes the engine's state as plain tensors by name, so that checkpoints need no pickle.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from sovereign.plan import Plan
from training import zero
from training.deepspeed_config import PROCESS_GROUP_TIMEOUT, render
from training.environment import Ranks, import_without, set_rendezvous
from training.fragments import MASTER, RANDOM, SCALAR, FragmentReader
from training.initial import InitialWeights
from training.loss import LanguageModelLoss
from training.model import allocate, make_skeleton, parameter_groups, why_no_compiler
from training.schedule import learning_rate

deepspeed = import_without("deepspeed", "mlflow")  # its autotuner's import of MLflow takes longer than all else here


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


Judge = Callable[[float, float], bool]
"""Whether a step with this loss and gradient norm may change the weights."""


@dataclass(frozen=True)
class StepResult:
    """What a training step gave."""

    loss: float
    """Mean cross-entropy over all ranks, nats for each token."""
    z_loss: float
    """Mean z-loss, 0 where the recipe has none."""
    gradient_norm: float
    """Of the whole batch, before clipping; infinite or NaN where a gradient is."""
    is_taken: bool
    """The weights were changed."""
    is_stopped: bool
    """A rank was asked to stop."""

    @property
    def is_finite(self) -> bool:
        """Loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class _Gate:
    """Stands before the optimizer's step, where ZeRO knows the gradient norm, and leaves the step out if it must.

    ZeRO calls the step once for each of its partitions, and once before training with zero gradients to make the state.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._step = optimizer.step
        optimizer.step = self  # type: ignore[method-assign, assignment]
        self._decide: Callable[[], bool | None] | None = None
        self.is_open: bool | None = None
        """The decision in this step; None where a gradient is not a number: with such a one ZeRO never comes here."""

    def close(self, decide: Callable[[], bool | None]) -> None:
        """Let `decide` say about the next step, once."""
        self._decide, self.is_open = decide, None

    def __call__(self, closure: None = None) -> None:
        if self._decide is not None and self.is_open is None:
            self.is_open = self._decide()
        if self._decide is None or self.is_open:
            self._step(closure)


def allocated(plan: Plan, config: Mapping[str, Any]) -> PreTrainedModel:
    """A model in the plan's shape without its weights.

    At stage 3 a rank has one module whole at a time and keeps its part of it.

    Args:
        config: DeepSpeed's.
    """
    model = make_skeleton(plan.model)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    def divide(module: torch.nn.Module) -> None:
        deepspeed.zero.Init(module=module, config_dict_or_path=config)

    dtype = torch.bfloat16 if plan.recipe.precision == "bf16" else torch.float32
    allocate(model, device, dtype, divide if plan.recipe.zero_stage == 3 else None)
    return model


class Engine:
    """The model, its optimizer and DeepSpeed around them."""

    def __init__(
        self,
        plan: Plan,
        warn: Callable[[str], object],
        model: PreTrainedModel | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the engine of `model`, by default a fresh one in the plan's shape.

        Args:
            config: DeepSpeed's, where it is not the plan's.
        """
        self.recipe = plan.recipe
        if self.recipe.threads:
            torch.set_num_threads(self.recipe.threads)
            torch.use_deterministic_algorithms(True)  # compiled code adds embedding gradients atomically otherwise
            # It would also write to all fresh memory, a quarter of the time, and nothing reads that.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(self.recipe.seed)
        config = config or render(plan)
        self.model: PreTrainedModel = model or allocated(plan, config)
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self.shapes = {name: tuple(zero.whole_shape(value)) for name, value in trained.items()}
        """Shape of each parameter that training changes, a tied one once."""
        self._names = {id(value): name for name, value in self.model.named_parameters()}
        self.model.train()  # a base comes otherwise, and transformers would not checkpoint its activations
        self._loss = LanguageModelLoss(self.model, self.recipe)
        optimizer = torch.optim.AdamW(
            parameter_groups(self._loss, self.recipe),
            lr=self.recipe.learning_rate,
            betas=(self.recipe.beta1, self.recipe.beta2),
            eps=1e-8,
            fused=True,
        )
        self._gate = _Gate(optimizer)
        self._norm = math.nan
        if self.recipe.zero_stage == 3:  # evaluation passes by DeepSpeed's engine, which would find out by itself
            output = self.model.get_output_embeddings()
            assert output is not None
            deepspeed.zero.register_external_parameter(self._loss.head, output.weight)
        self._engine, *_ = deepspeed.initialize(model=self._loss, optimizer=optimizer, config=config)
        if self.recipe.zero_stage == 0 and dist.get_world_size() == 1:
            self._engine.enable_backward_allreduce = False  # would copy every gradient to a buffer and back
        self.device: torch.device = self._engine.device
        if model is None:
            initial = InitialWeights(plan.model.num_layers, self.recipe.seed, self.recipe.depth_scaled_init)
            for part in self._partitions():
                for one in part.fragments:
                    part.master.data[one.place] = initial.read(one.name, one.start, one.stop)
            zero.update_model(self._engine.optimizer, self.recipe.zero_stage)
        if self.recipe.compile:
            missing = why_no_compiler() if self.device.type == "cpu" else None
            if missing is None:
                lengths = {phase.sequence_length for phase in self.recipe.phases}
                torch._dynamo.config.recompile_limit = max(8, 2 * len(lengths))
                torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would go on without compiling
                self._loss.compile_parts()
            else:
                warn(f"training is slower and takes more memory, without torch.compile: {missing}")

    def step(
        self, number: int, rows: npt.NDArray[np.int64], judge: Judge | None = None, *, stop: bool = False
    ) -> StepResult:
        """Train step `number` on this rank's rows, unless `judge` refuses it: then weights and optimizer stay.

        All ranks judge by the same numbers; one rank's refusal counts for all. `stop` is shared with the others.
        """
        rate = learning_rate(self.recipe, number)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        losses: list[torch.Tensor] = []
        for micro_batch in torch.from_numpy(rows).to(self.device).chunk(self.recipe.grad_accumulation):
            if losses:
                self._engine.step()  # only counts the micro-batch before
            parts = self._engine(micro_batch)
            self._engine.backward(parts.objective)
            losses.append(torch.stack([parts.cross_entropy, parts.z_loss]))
        own_loss, own_z_loss = torch.stack(losses).mean(dim=0).tolist()
        loss, z_loss, is_stopped = self._share(own_loss, own_z_loss, stop)
        self._gate.close(lambda: self._decide(loss, judge))
        self._engine.step()
        norm = math.inf if self._gate.is_open is None else self._gradient_norm()
        return StepResult(loss, z_loss, norm, self._gate.is_open is True, is_stopped)

    def _share(self, loss: float, z_loss: float, stop: bool) -> tuple[float, float, bool]:
        """The mean losses over all ranks, and whether any of them was asked to stop."""
        if dist.get_world_size() == 1:
            return loss, z_loss, stop
        sums = torch.tensor([loss, z_loss, float(stop)], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        loss, z_loss, stops = sums.tolist()
        return loss / dist.get_world_size(), z_loss / dist.get_world_size(), bool(stops)

    def _decide(self, loss: float, judge: Judge | None) -> bool | None:
        """Whether the step that is being taken may change the weights; None where a gradient is not a number.

        Gradients are averaged over the ranks by then. At stage 0 they are clipped here.
        """
        if self.recipe.zero_stage == 0:
            parameters = [value for group in self._engine.optimizer.param_groups for value in group["params"]]
            limit = self.recipe.gradient_clipping or math.inf
            self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
            if not math.isfinite(self._norm):
                return None
        return judge is None or self._agree(judge(loss, self._gradient_norm()))

    def _gradient_norm(self) -> float:
        """Of the step that is being taken, before clipping."""
        return self._norm if self.recipe.zero_stage == 0 else float(self._engine.optimizer._global_grad_norm)

    def _agree(self, is_admitted: bool) -> bool:
        """Whether all ranks admit: ranks that decided differently would part for good."""
        if dist.get_world_size() == 1:
            return is_admitted
        refused = torch.tensor(float(not is_admitted), device=self.device)
        dist.all_reduce(refused)
        return refused.item() == 0

    def evaluate(self, rows: npt.NDArray[np.int64]) -> float:
        """Mean loss (nats) on rows that are not trained on; every rank does the same.

        Not compiled: rows of many shapes would use up what the compiler makes for one function, and the training steps
        after them would run without it.
        """
        total = 0.0
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            for batch in torch.from_numpy(rows).to(self.device).split(self.recipe.micro_batch):  # type: ignore[no-untyped-call]
                losses = self._loss.forward(batch)
                total += losses.cross_entropy.item() * len(batch)
        return total / len(rows)

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's parameters by name, on CPU, a tied one once, on the first rank; none on the others.

        Every rank must call this. At stage 3 a rank has one parameter whole at a time.
        """
        weights = {}
        for name, value in self.model.named_parameters():
            whole = deepspeed.zero.GatheredParameters([value]) if self.recipe.zero_stage == 3 else nullcontext()
            with whole:
                if dist.get_rank() == 0:
                    weights[name] = value.detach().to("cpu", copy=True)
        return weights

    def spans(self) -> dict[str, tuple[int, int]]:
        """The range of each parameter that this rank keeps."""
        return {one.name: (one.start, one.stop) for part in self._partitions() for one in part.fragments}

    def state(self) -> dict[str, torch.Tensor]:
        """What only this rank has, named as in fragments.py: master weights, moments, random states; copies on CPU."""
        tensors = {f"{RANDOM}/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
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
            moments = {name: value.to(part.master.device) for name, value in reader.scalars().items()}
            for kind in reader.kinds:
                if kind == MASTER:
                    values = part.master.data
                else:
                    values = moments[kind] = torch.zeros_like(part.master, requires_grad=False)
                for one in part.fragments:
                    values[one.place] = reader.read(kind, one.name, one.start, one.stop)
            part.set_moments(moments)
        zero.update_model(self._engine.optimizer, self.recipe.zero_stage)
        if random is not None:
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(random["cuda"])

    def _partitions(self) -> list[zero.Partition]:
        return zero.partitions(self._engine.optimizer, self.recipe.zero_stage, self._names)
