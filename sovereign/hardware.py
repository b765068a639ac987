"""Figures of accelerators and processors that the plan computes with, each with its source.

Peak rates are dense bf16 for GPUs, as their data sheets have them, and fp32 for processors, FLOP/s; memory in bytes;
power in watts. MFU is always against the peak. What a large matmul reaches is a second figure, `measured_flops`.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One kind of compute device (for `cpu`: one core of a machine)."""

    peak_flops: float
    """Dense matmul peak, FLOP/s: of the data sheet; for processors, which have none, as measured."""
    measured_flops: float | None
    """What a large matmul reaches, FLOP/s; None: no published measurement."""
    memory_bytes: int
    """Memory of one device; 0 where the machine's main memory counts."""
    power_w: float
    """Power of one device under load."""
    host_power_w: float
    """Power of the machine around it, for each device."""
    flops_one_node: float
    """FLOP/s of the model that a device is assumed to do on one machine."""
    flops_many_nodes: float
    """The same across machines."""
    speed_source: str
    """Where the two assumptions come from."""

    @property
    def mfu_one_node(self) -> float:
        """Model FLOP utilisation assumed on one machine."""
        return self.flops_one_node / self.peak_flops

    @property
    def mfu_many_nodes(self) -> float:
        """The same across machines."""
        return self.flops_many_nodes / self.peak_flops

    @property
    def mfu_source(self) -> str:
        """The assumptions in words, with their source."""
        assumed = (
            f"{_tflops(self.flops_one_node)} TFLOP/s a device on one node and {_tflops(self.flops_many_nodes)} across"
        )
        return f"{assumed} of a peak of {_tflops(self.peak_flops)}; {self.speed_source}"


def _tflops(flops: float) -> str:
    return f"{flops / 1e12:,.4g}"


_HOPPER_SOURCE = (
    "published: 8B bf16 on one H200, 10,471 tokens/s, 572 TFLOP/s, MFU 57.8% (KempnerForge, 2026-04); 64xH200 8B FP8 "
    "10,753 tokens/s/GPU (torchtitan, 2025-06)"
)

ACCELERATORS: dict[str, Accelerator] = {
    "cpu": Accelerator(
        peak_flops=129e9,
        measured_flops=129e9,
        memory_bytes=0,
        power_w=6.0,
        host_power_w=10.0,
        flops_one_node=64.5e9,
        flops_many_nodes=51.6e9,
        speed_source="5M-parameter model on 2 cores: 56% of the measured matmul peak of 258 GFLOP/s",
    ),
    "A100": Accelerator(
        peak_flops=312e12,
        measured_flops=None,
        memory_bytes=80 * 10**9,
        power_w=400,
        host_power_w=410,
        flops_one_node=139.2e12,
        flops_many_nodes=124.7e12,
        speed_source="assumed; nothing is published for a model of this kind",
    ),
    "H100": Accelerator(
        peak_flops=989.4e12,
        measured_flops=790e12,
        memory_bytes=80 * 10**9,
        power_w=700,
        host_power_w=575,
        flops_one_node=395e12,
        flops_many_nodes=355.5e12,
        speed_source=_HOPPER_SOURCE,
    ),
    "H200": Accelerator(
        peak_flops=989.4e12,
        measured_flops=790e12,
        memory_bytes=141 * 10**9,
        power_w=700,
        host_power_w=575,
        flops_one_node=395e12,
        flops_many_nodes=355.5e12,
        speed_source=_HOPPER_SOURCE,
    ),
    "B200": Accelerator(
        peak_flops=2_250e12,
        measured_flops=None,
        memory_bytes=180 * 10**9,
        power_w=1000,
        host_power_w=790,
        flops_one_node=840e12,
        flops_many_nodes=760e12,
        speed_source="assumed; nothing is published for a model of this kind",
    ),
}
"""Peaks, dense bf16 with fp32 accumulation: A100 data sheet 312 TFLOP/s; H100 SXM and H200 SXM 1,979 with sparsity,
half of it dense; DGX B200 data sheet 72 PFLOP/s of FP8 with sparsity for 8 GPUs, a quarter of it dense bf16. Other
boards of these names (PCIe, NVL) are slower. Power: DGX data sheets (H200: 10.2 kW for 8 GPUs). Measured: large matmuls
on H100 and H200 reach 790 to 795 TFLOP/s."""

USABLE_MEMORY_FRACTION = 0.92
"""Part of a device's memory that a plan may fill; the rest is for the runtime, buffers and fragmentation."""

CPU_RUNTIME_BYTES = 2 * 10**9
"""Main memory that Python, torch, DeepSpeed and the compiler take in one CPU training process."""
