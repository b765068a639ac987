"""Peaks are those of the data sheets; plans assume the same FLOP/s as when peaks were measured ones (sec18)."""

from __future__ import annotations

import pytest

from sovereign.hardware import ACCELERATORS


@pytest.mark.parametrize(
    ("name", "peak_tflops"), [("A100", 312), ("H100", 1978.9 / 2), ("H200", 1978.9 / 2), ("B200", 72_000 / 8 / 4)]
)
def test_sec18_peaks_are_dense_bf16_of_the_data_sheets(name: str, peak_tflops: float) -> None:
    assert ACCELERATORS[name].peak_flops / 1e12 == pytest.approx(peak_tflops, rel=1e-3)


def test_sec18_an_anchor_has_the_mfu_that_its_authors_report() -> None:
    # 8B, sequences of 4,096: 6 FLOPs a parameter and 12 x layers x width x length of attention for each token.
    flops_per_token = 6 * 8.03e9 + 12 * 32 * 4096 * 4096
    assert 10_471 * flops_per_token / ACCELERATORS["H200"].peak_flops == pytest.approx(0.578, abs=0.003)


@pytest.mark.parametrize(
    ("name", "one_node_tflops", "many_nodes_tflops"),
    [("A100", 139.2, 124.7), ("H100", 395, 355.5), ("H200", 395, 355.5), ("B200", 840, 760)],
)
def test_sec18_assumed_speeds_stay_below_what_is_published(
    name: str, one_node_tflops: float, many_nodes_tflops: float
) -> None:
    device = ACCELERATORS[name]
    assert device.peak_flops * device.mfu_one_node / 1e12 == pytest.approx(one_node_tflops)
    assert device.peak_flops * device.mfu_many_nodes / 1e12 == pytest.approx(many_nodes_tflops)
    assert device.mfu_many_nodes < device.mfu_one_node < 0.578
    if device.measured_flops is not None:
        assert device.flops_one_node < device.measured_flops < device.peak_flops


def test_sec18_the_source_names_both_figures() -> None:
    assert ACCELERATORS["H200"].mfu_source.startswith(
        "395 TFLOP/s a device on one node and 355.5 across of a peak of 989.4; published: 8B bf16 on one H200"
    )
