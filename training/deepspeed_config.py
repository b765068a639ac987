"""DeepSpeed's configuration, rendered from the plan's recipe and written beside the run; never edited by hand.

Every switch is said, since DeepSpeed's defaults change between minor versions: clipping (#8068), the bf16 overflow
check (#8035), overlapping communication (on by default for stage 3, with races: #8061, #7965). A test compares
with what DeepSpeed's parser resolves and fails when it knows a switch that is not said here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sovereign.memory import LARGEST_BUCKET
from sovereign.plan import Plan

PROCESS_GROUP_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others (given to init_distributed; DeepSpeed's default went from 30 to 10, #8253)."""
_LEAF_CLASSES = [
    "transformers.models.mixtral.modeling_mixtral.MixtralSparseMoeBlock",
    "transformers.models.qwen2_moe.modeling_qwen2_moe.Qwen2MoeSparseMoeBlock",
    "transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeSparseMoeBlock",
]
"""DeepSpeed's own list, word for word: with any other, also an empty one, it warns that no module is of these."""


def render(plan: Plan) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`; learning rate and optimizer are the kit's own."""
    recipe = plan.recipe
    return {
        "train_batch_size": recipe.micro_batch * recipe.grad_accumulation * recipe.world_size,
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.grad_accumulation,
        "managed_gradient_accumulation": True,
        "dataloader_drop_last": False,
        # At stage 0 the engine clips: DeepSpeed would not tell the norm.
        "gradient_clipping": recipe.gradient_clipping if recipe.zero_stage else 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "gradient_allreduce_op": "mean",
        "disable_allgather": False,
        "communication_data_type": "fp32",
        "seq_parallel_communication_data_type": "fp32",
        "data_types": {
            "grad_accum_dtype": "fp32",
            "param_dtype": None,
            "buffer_dtype": None,
            "keep_in_fp32_modules": "auto",  # the rotary embedding's frequencies
        },
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
        "zero_optimization": _zero(recipe.zero_stage, min(plan.num_parameters, LARGEST_BUCKET)),
        "checkpoint": {
            "tag_validation": "FAIL",
            "load_universal": False,
            "use_node_local_storage": False,
            "parallel_write": {"pipeline_stage": False},
            "checkpoint_serialization": True,
            "writer": None,
        },
        "activation_checkpointing": {  # DeepSpeed's own function, which the model does not call
            "partition_activations": False,
            "contiguous_memory_optimization": False,
            "cpu_checkpointing": False,
            "number_checkpoints": None,
            "synchronize_checkpoint_boundary": False,
            "profile": False,
        },
        "compile": {"deepcompile": False},
        "flops_profiler": {"enabled": False},
        "comms_logger": {"enabled": False},
        "autotuning": {"enabled": False},
        "hybrid_engine": {"enabled": False},
        "data_efficiency": {"enabled": False},
        "tensorboard": {"enabled": False},
        "comet": {"enabled": False},
        "wandb": {"enabled": False},
        "csv_monitor": {"enabled": False},
        "timers": {"throughput": {"enabled": False, "synchronized": False}},  # on by default, waiting for the device
        "disable_python_gc": False,
        "log_level": None,
        "steps_per_print": recipe.num_steps + 1,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
    }


def _zero(stage: int, bucket_elements: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket_elements,
        "use_multi_rank_bucket_allreduce": True,
        "allgather_partitions": True,
        "allgather_bucket_size": bucket_elements,
        "overlap_comm": False,
        "compute_grad_norm": True,
        "round_robin_gradients": False,
        "parameter_alignment": False,
        "elastic_checkpoint": False,
        "load_from_fp32_weights": True,
        "ignore_unused_parameters": False,
        "legacy_stage1": False,
        "offload_param": None,
        "offload_optimizer": None,
        "zenflow": None,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
        "save_muon_momentum_buffer_in_memory": False,
        "log_trace_cache_warnings": False,
        "enable_sanity_checks": False,
        # Stage 3 only.
        "sub_group_size": 1_000_000_000,
        "stage3_prefetch_bucket_size": bucket_elements,
        "stage3_param_persistence_threshold": 100_000,
        "stage3_model_persistence_threshold": 2**63 - 1,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "stage3_gather_16bit_weights_on_model_save": False,
        "stage3_module_granularity_threshold": 0,
        "stage3_use_all_reduce_for_fetch_params": False,
        "stage3_allgather_sequential": False,
        "memory_efficient_linear": True,
        "pipeline_loading_checkpoint": False,
        "override_module_apply": True,
        "leaf_module": {"classes": _LEAF_CLASSES, "names": [], "name_suffixes": []},
    }
