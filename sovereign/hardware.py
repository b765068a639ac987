"""Figures of accelerators and processors that the plan computes with, each with its source.

Peak rates are dense bf16 for GPUs and fp32 for processors, FLOP/s; memory in bytes; power in watts.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Accelerator:
    """One kind of compute device (for `cpu`: one core of a machine)."""

    peak_flops: float
    """Dense matmul peak that a program can really reach, FLOP/s."""
    memory_bytes: int
    """Memory of one device; 0 where the machine's main memory counts."""
    power_w: float
    """Power of one device under load."""
    host_power_w: float
    """Power of the machine around it, for each device."""
    mfu_one_node: float
    """Model FLOP utilisation assumed on one machine."""
    mfu_many_nodes: float
    """The same across machines."""
    mfu_source: str
    """Where the two assumptions come from."""


_H_SOURCE = (
    "8B bf16 on one H200: 57.8% (KempnerForge, 2026-04); 64xH200 8B FP8 10,753 tokens/s/GPU (torchtitan, 2025-06); "
    "50% on one node and 45% across nodes are assumed below these"
)

ACCELERATORS: dict[str, Accelerator] = {
    "cpu": Accelerator(
        129e9, 0, 6.0, 10.0, 0.50, 0.40, "5M-parameter model on 2 cores: 56% of the measured matmul peak of 258 GFLOP/s"
    ),
    "A100": Accelerator(
        290e12, 80 * 10**9, 400, 410, 0.48, 0.43, "A100 datasheet peak 312 TFLOP/s; MFU as for H100, less 2 points"
    ),
    "H100": Accelerator(790e12, 80 * 10**9, 700, 575, 0.50, 0.45, _H_SOURCE),
    "H200": Accelerator(790e12, 141 * 10**9, 700, 575, 0.50, 0.45, _H_SOURCE),
    "B200": Accelerator(
        2_000e12,
        180 * 10**9,
        1000,
        790,
        0.42,
        0.38,
        "B200 datasheet 2.25 PFLOP/s dense bf16; MFU assumed lower, not published",
    ),
}
"""Power: DGX datasheets (H200: 10.2 kW for 8 GPUs); measured matmul ceiling of H100/H200: 790 TFLOP/s."""

USABLE_MEMORY_FRACTION = 0.92
"""Part of a device's memory that a plan may fill; the rest is for the runtime, buffers and fragmentation."""

CPU_RUNTIME_BYTES = 2 * 10**9
"""Main memory that Python, torch, DeepSpeed and the compiler take in one CPU training process."""
