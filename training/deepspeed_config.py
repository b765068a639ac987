"""DeepSpeed's configuration, rendered from the plan's recipe and written beside the run; never edited by hand.

Every switch that the kit relies on is said, since DeepSpeed's defaults change between minor versions: clipping (#8068),
the bf16 overflow check (#8035), overlapping communication (on by default for stage 3, with races: #8061, #7965).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sovereign.plan import Plan

PROCESS_GROUP_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others (given to init_distributed; DeepSpeed's default went from 30 to 10, #8253)."""
_LARGEST_BUCKET = 50_000_000
"""Elements that are sent at a time; the buffer is allocated anew in every step."""


def render(plan: Plan) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`; learning rate and optimizer are the kit's own."""
    recipe = plan.recipe
    return {
        "train_batch_size": recipe.micro_batch * recipe.grad_accumulation * recipe.world_size,
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.grad_accumulation,
        "gradient_clipping": recipe.gradient_clipping,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "seq_parallel_communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": {"enabled": False},
        "bf16": {
            "enabled": recipe.precision == "bf16",
            "immediate_grad_update": False,
            "check_grad_overflow": recipe.precision == "bf16",
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(recipe.zero_stage, min(plan.num_parameters, _LARGEST_BUCKET)),
        "checkpoint": {"tag_validation": "Fail", "load_universal": False},
        "flops_profiler": {"enabled": False},
        "comms_logger": {"enabled": False},
        "steps_per_print": recipe.num_steps + 1,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
    }


def _zero(stage: int, bucket_elements: int) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket_elements,
        "allgather_partitions": True,
        "allgather_bucket_size": bucket_elements,
        "overlap_comm": False,
        "round_robin_gradients": False,
        "elastic_checkpoint": False,
        "load_from_fp32_weights": True,
        "ignore_unused_parameters": False,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_gradients": False,
    }
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": bucket_elements,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    return zero
