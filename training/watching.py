"""All that watches a run, as the training loop uses it, and how it is set up before the first step."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sovereign.errors import TrainingError
from sovereign.hardware import ACCELERATORS
from sovereign.stages import StageContext
from training import ledger
from training.energy import Gpu, open_meter
from training.engine import StepResult, gather
from training.environment import Ranks
from training.nodecheck import check_alone, check_nodes
from training.order import TokenStream
from training.runs import RunWriter
from training.tracking import Record
from training.watch import Prices, Watch, gather_numbers
from training.watch_hang import Watchdog, own_store
from training.watch_heldout import Heldout
from training.watch_spikes import Divergence, SpikeGuard

_SHOWN_DOCUMENTS = 20


@dataclass(frozen=True)
class Watching:
    """What watches one run on one rank."""

    heldout: Heldout
    spikes: SpikeGuard
    divergence: Divergence
    watch: Watch
    watchdog: Watchdog
    runs: RunWriter
    gpu: Gpu | None
    device: torch.device
    matmul_flops: float
    """What this rank's matmul gave before the first step, FLOP/s."""

    def not_finite(self, step: int, result: StepResult, stream: TokenStream, batch_tokens: int) -> TrainingError:
        """The error for a step whose loss or gradient is not a number, with the documents of its batch.

        The list of all of them lies in the store, beside the run's record.
        """
        documents = [one.doc_id for one in ledger.documents(stream, step * batch_tokens, batch_tokens)]
        key = self.runs.keep(f"not-finite-{step}.json", json.dumps({"step": step, "documents": documents}, indent=1))
        shown = ", ".join(documents[:_SHOWN_DOCUMENTS]) + (", …" if len(documents) > _SHOWN_DOCUMENTS else "")
        return TrainingError(
            f"loss or gradient is not a number at step {step}; the weights are as before it",
            got=f"loss {result.loss}, gradient norm {result.gradient_norm} on {len(documents)} documents: {shown}",
            hint=f"all documents are in {key}; if they are well, lower training.learning_rate or run train --preflight",
        )

    def report_failure(self, ranks: Ranks) -> None:
        """Check this rank's part of the machine again, and write to the log what is found."""
        for sentence in check_alone(self.gpu, self.device, self.matmul_flops):
            sys.stderr.write(f"rank {ranks.rank} on {socket.gethostname()}: {sentence}\n")


def watch_run(
    context: StageContext,
    digest: str,
    ranks: Ranks,
    device: torch.device,
    heldout: Heldout,
    record: Record,
    say: Callable[..., None],
) -> Watching:
    """Check the machines and set up what watches the run; every rank calls this.

    Raises:
        TrainingError: the machines are not fit to train.
    """
    hardware, model = context.profile.hardware, context.plan.model
    on_gpus, device_kind = hardware.gpus_per_node > 0, ACCELERATORS[hardware.accelerator]
    gpu = Gpu.open(f"GPU-{torch.cuda.get_device_properties(device).uuid}") if on_gpus else None
    check = check_nodes(gpu, device, gather)
    problems = list(check.problems())
    if ranks.is_first:
        for problem in problems:
            sys.stderr.write(f"warning: {problem}\n")
    logged = [line for line in record.lines if "elapsed_s" in line]
    watch = Watch(
        flops_per_token=model.flops_per_token,
        peak_flops=device_kind.peak_flops * ranks.world_size if on_gpus else check.peak_flops,
        measured_flops=check.peak_flops,
        num_devices=ranks.world_size,
        batch_tokens=context.plan.recipe.batch_tokens,
        prices=Prices.of(context.profile.economics, hardware),
        gather=gather_numbers(device),
        meter=open_meter(gpu, on_gpus=on_gpus, rank=ranks.rank, gather=gather),
        gpu=gpu,
        before=logged[-1] if logged else {},
    )
    return Watching(
        heldout=heldout,
        spikes=SpikeGuard(),
        divergence=Divergence([line["loss"] for line in record.lines if "loss" in line]),
        watch=watch,
        watchdog=Watchdog(ranks.rank, ranks.world_size, own_store()),
        runs=RunWriter(
            context.store, context.dataset, digest, context.plan, problems, enabled=ranks.is_first, warn=say
        ),
        gpu=gpu,
        device=device,
        matmul_flops=check.ranks[ranks.rank].matmul_flops,
    )
