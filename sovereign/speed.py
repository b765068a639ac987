"""How fast a model in its layout trains on the profile's machines."""

from __future__ import annotations

from dataclasses import dataclass

from sovereign.hardware import ACCELERATORS, Accelerator
from sovereign.layout import Layout
from sovereign.profile import Profile
from sovereign.shapes import ModelShape


@dataclass(frozen=True)
class Speed:
    """An estimate of speed."""

    devices: int
    """GPUs or processor cores that work."""
    mfu: float
    """Model FLOP utilisation."""
    tokens_per_s: float
    """Over all ranks."""


def training_speed(profile: Profile, shape: ModelShape, layout: Layout) -> Speed:
    """Tokens per second: devices x peak x MFU (sovereign/hardware.py has the sources) / FLOPs per token."""
    device = ACCELERATORS[profile.hardware.accelerator]
    devices, mfu = _devices_and_mfu(profile, device)
    mfu *= layout.speed
    return Speed(devices, mfu, devices * device.peak_flops * mfu / shape.flops_per_token)


def _devices_and_mfu(profile: Profile, device: Accelerator) -> tuple[int, float]:
    """Devices that work and their MFU. Ranks on CPU stay on one machine where spreading them would be slower."""
    hardware = profile.hardware
    if hardware.gpus_per_node:
        mfu = device.mfu_one_node if hardware.nodes == 1 else device.mfu_many_nodes
        return hardware.nodes * hardware.gpus_per_node, mfu
    threads = profile.training.pods * profile.training.threads_per_pod
    one = min(threads, hardware.cpus_per_node), device.mfu_one_node
    many = min(threads, hardware.cpus_per_node * hardware.nodes), device.mfu_many_nodes
    return max(one, many, key=lambda choice: choice[0] * choice[1])
