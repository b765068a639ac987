"""What a rank holds in memory while it trains: model states by ZeRO stage, activations, logits, gradient buffers.

Model states as DeepSpeed holds them (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, and what its optimizers
add). Activations are counted tensor by tensor, as transformers' decoder layers save them for the backward pass with
attention that keeps no scores; tests/training/test_activations.py holds the counts to what torch saves, eager and
compiled, and benchmarks/gpu.sh the whole to a GPU's peak. The 34 bytes for each token and width of Korthikanti et al.
2022 (https://arxiv.org/abs/2205.05198) are those of another layer: no gated feed-forward part, no grouped keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from sovereign.shapes import ModelShape

LARGEST_BUCKET = 50_000_000
"""Elements of gradients or parameters that are sent at a time."""
_BLOCK = 64
_LONGEST_WITH_SCORES = 512
"""training/attention.py: on CPU, compiled, rows of at most so many positions keep their scores, in blocks of 64."""


@dataclass(frozen=True)
class Memory:
    """What decides the memory of a rank, beside the model's shape."""

    zero_stage: int
    world_size: int
    micro_batch: int
    checkpointing: bool
    precision: str
    compiled: bool = True
    on_cpu: bool = False
    masks_documents: bool = False
    has_z_loss: bool = False
    has_goldfish: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number in the compute precision."""
        return 2 if self.precision == "bf16" else 4


def model_state_bytes(shape: ModelShape, zero_stage: int, world_size: int, precision: str) -> float:
    """Weights, gradients and optimizer states of one rank at the end of a backward pass, bytes.

    For each parameter: the weight and its gradient in the compute precision, and in fp32 the gradient that is
    accumulated, the master weight and two moments. A stage divides among the ranks what it partitions; stage 3 gathers
    the largest part of the model (a layer, or an embedding) with its gradient, and holds the fp32 gradients twice. A
    frozen parameter beside adapters is a weight only. At stage 0, fp32 on one rank, the weight is its own master.
    """
    parameters, trained = float(shape.num_parameters), float(shape.num_trained_parameters)
    width = 2 if precision == "bf16" else 4
    accumulated, master, moments = (4 if precision == "bf16" else 0), 4, 8
    if zero_stage == 0:
        return parameters * width + trained * (width + moments)
    if zero_stage == 1:
        return parameters * width + trained * (width + accumulated + (master + moments) / world_size)
    if zero_stage == 2:
        return parameters * width + trained * (width + accumulated + master + moments) / world_size
    largest = max(shape.num_layer_parameters, shape.vocab_size * shape.hidden_size)
    return (parameters * width + trained * (4 + 4 + master + moments)) / world_size + 2 * width * largest


def saved_bytes_per_token(shape: ModelShape, memory: Memory) -> float:
    """What one decoder layer keeps of one token from the forward to the backward pass, bytes.

    A compiled layer recomputes what is cheap: it keeps what matrix products read and write. Eager code also keeps each
    normalised vector in fp32, before and after its weight, and each part of the gated activation.
    """
    w, d, f = memory.width, shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    has_head_norms = shape.architecture == "Qwen3ForCausalLM"
    roots = 2 + shape.num_heads + (shape.num_heads + shape.num_kv_heads if has_head_norms else 0)  # and the softmax's
    if memory.compiled:
        vectors = w * (4 * d + 3 * f + (3 if has_head_norms else 2) * (queries + keys))
    else:
        head_norms = 4 + w if has_head_norms else 0
        vectors = 2 * d * (4 + 2 * w) + 4 * w * f + (2 * w + head_norms) * (queries + keys)
        if memory.masks_documents:  # attention with a mask takes keys and values once for each query head
            vectors += 2 * w * (queries - keys)
    return vectors + 4 * roots + _mask_or_score_bytes(shape, memory) + _adapter_bytes(shape, memory)


def _mask_or_score_bytes(shape: ModelShape, memory: Memory) -> float:
    """For a token of a layer: its row of the mask by documents; or on CPU the scores of short rows."""
    length = shape.sequence_length
    if memory.masks_documents:
        return float(memory.width * length)
    if memory.on_cpu and memory.compiled and length <= _LONGEST_WITH_SCORES:
        return memory.width * shape.num_heads * (length + _BLOCK) / 2
    return 0.0


def _adapter_bytes(shape: ModelShape, memory: Memory) -> float:
    """For a token of a layer beside adapters: their inputs in fp32, in which they are, and what is between A and B."""
    if shape.num_trained is None:
        return 0.0
    inputs = 3 * shape.hidden_size + shape.num_heads * shape.head_dim + shape.intermediate_size
    rank = shape.num_trained / shape.num_layers / (7 * shape.hidden_size)
    return 4 * (inputs + 7 * rank) if memory.precision == "bf16" else 4 * 7 * rank


def activation_bytes(shape: ModelShape, memory: Memory) -> float:
    """Highest memory of activations and logits of one micro-batch, bytes.

    With checkpointing each layer keeps its input, and one layer at a time all it needs. As the backward pass begins,
    there is beside all of that the larger one of logits and what the last layer's gradients take.
    """
    tokens, w = shape.sequence_length * memory.micro_batch, memory.width
    layer = saved_bytes_per_token(shape, memory)
    layers = w * shape.hidden_size * shape.num_layers + layer if memory.checkpointing else layer * shape.num_layers
    ends = 4 * w * shape.hidden_size  # embedding, last norm and their gradients
    gradients = _gradient_bytes(shape, memory)
    mask = shape.sequence_length if memory.masks_documents else 0
    return tokens * (layers + ends + mask + max(gradients, shape.vocab_size * bytes_per_logit(memory)))


def _gradient_bytes(shape: ModelShape, memory: Memory) -> float:
    """Gradients of one token's vectors while one layer's backward pass runs."""
    vectors = 3 * shape.intermediate_size + 2 * shape.hidden_size + 2 * shape.num_heads * shape.head_dim
    return float(memory.width * vectors)


def bytes_per_logit(memory: Memory) -> float:
    """Compiled: the logit and its gradient, both in the compute precision.

    (On CPU the compiler puts the gradient in the logit's place.) Eager, all in fp32: the logit, its log-softmax and its
    gradient; the same again of the z-loss and of the goldfish loss.
    """
    if memory.compiled:
        return 2.0 * memory.width
    return 12.0 + 8 * memory.has_z_loss + 8 * memory.has_goldfish


def _phases_bytes(shape: ModelShape, memory: Memory) -> tuple[float, ...]:
    """What is there beside the model states: as backward passes begin, as they end, in the step, in evaluation; bytes.

    At the beginning gradients in bf16 are not there yet, but that of the output matrix. ZeRO collects gradients in a
    bucket (a larger parameter is one by itself) and, with several ranks, sends them in fp32. In the step activations
    are gone, and stages 1 and 2 have the gradients of their partition twice: by parameter, and flat. Evaluation is
    not compiled: a logit in fp32, and its log-softmax.
    """
    tokens, stage = shape.sequence_length * memory.micro_batch, memory.zero_stage
    trained, world_size = shape.num_trained_parameters, memory.world_size
    embedding = min(trained, shape.vocab_size * shape.hidden_size) if shape.num_trained is None else 0
    bucket = max(min(trained, LARGEST_BUCKET), embedding) if stage else 0
    sent = 4.0 * bucket if world_size > 1 else 0.0
    is_fresh = memory.precision == "bf16" and stage in (1, 2)
    fresh = memory.width * trained / (world_size if stage == 2 else 1) if is_fresh else 0.0
    flat = 4.0 * trained / world_size if stage in (1, 2) else 0.0
    begin = activation_bytes(shape, memory) + memory.width * embedding + sent - fresh
    end = (
        tokens * (saved_bytes_per_token(shape, memory) + _gradient_bytes(shape, memory)) + memory.width * bucket + sent
    )
    evaluation = tokens * (8 * shape.vocab_size + _gradient_bytes(shape, memory)) - fresh
    return begin, end, flat - fresh, evaluation


def memory_bytes_per_device(shape: ModelShape, memory: Memory) -> float:
    """Peak memory of one rank, bytes."""
    states = model_state_bytes(shape, memory.zero_stage, memory.world_size, memory.precision)
    return states + max(_phases_bytes(shape, memory))
