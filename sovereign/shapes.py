"""The model's shape: a ladder of Qwen3/Llama-compatible decoders, and the one nearest to the size wanted.

FLOPs per token 6 N + 6 L d s: causal attention; Chowdhery et al. 2022, PaLM, appendix B
(https://arxiv.org/abs/2204.02311).
"""

from __future__ import annotations

import math

from sovereign.errors import PlanError
from sovereign.profile import Profile
from sovereign.profile_base import Architecture, Base, Linear
from sovereign.section import Section


class ModelShape(Section):
    """Shape of a Qwen3/Llama-compatible decoder."""

    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width."""
    intermediate_size: int
    """Width of the gated feed-forward part."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab_size: int
    """Tokens."""
    sequence_length: int
    """Tokens in a training sequence."""
    tied: bool
    """Input and output embedding are one matrix."""
    architecture: Architecture = "Qwen3ForCausalLM"
    """Class of transformers."""
    num_trained: int | None = None
    """Parameters that training changes (those of the adapters); None: all."""

    @property
    def num_parameters(self) -> int:
        """All parameters, norms included; those of adapters are not."""
        return self.num_layers * self.num_layer_parameters + self.num_embedding_parameters + self.hidden_size

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.architecture == "Qwen3ForCausalLM" else 0)
        biases = self.head_dim * (self.num_heads + 2 * self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + norms
        return layer + (biases if self.architecture == "Qwen2ForCausalLM" else 0)

    @property
    def num_embedding_parameters(self) -> int:
        """Those of the input embedding and of the output matrix."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def num_trained_parameters(self) -> int:
        """Those that training changes."""
        return self.num_parameters if self.num_trained is None else self.num_trained

    @property
    def flops_per_token(self) -> float:
        """Forward and backward, FLOPs; the embedding lookup is free, the output matrix is not.

        Of 6 FLOPs for a parameter 2 make its gradient, which a frozen one does not need.
        """
        lookup = 0 if self.tied else self.vocab_size * self.hidden_size
        attention = 6 * self.num_layers * self.num_heads * self.head_dim * self.sequence_length
        matrices = self.num_parameters - lookup
        trained = matrices if self.num_trained is None else self.num_trained
        return 4.0 * matrices + 2.0 * trained + attention

    def linear_sizes(self, name: Linear) -> tuple[int, int]:
        """Inputs and outputs of a matrix of a layer."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, queries),
            "k_proj": (self.hidden_size, keys),
            "v_proj": (self.hidden_size, keys),
            "o_proj": (queries, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }[name]


# layers, width, feed-forward width, query heads, key/value heads, head width; from 600M on published shapes,
# but that of 220B, which stands between the published ones of 123B and 405B
_LADDER = (
    (3, 96, 256, 3, 1, 32),
    (4, 128, 352, 4, 2, 32),
    (4, 192, 512, 6, 2, 32),
    (6, 256, 704, 4, 2, 64),
    (8, 384, 1024, 6, 2, 64),
    (8, 512, 1408, 8, 4, 64),
    (12, 768, 2048, 12, 4, 64),
    (24, 1024, 2816, 16, 8, 64),
    (28, 1024, 3072, 16, 8, 128),
    (16, 2048, 8192, 32, 8, 64),
    (28, 2048, 6144, 16, 8, 128),
    (28, 3072, 8192, 24, 8, 128),
    (36, 4096, 12288, 32, 8, 128),
    (40, 5120, 17408, 40, 8, 128),
    (64, 5120, 25600, 64, 8, 128),
    (80, 8192, 28672, 64, 8, 128),
    (88, 12288, 28672, 96, 8, 128),
    (96, 14336, 43008, 112, 8, 128),
    (126, 16384, 53248, 128, 8, 128),
)
_TIED_BELOW = 1.5e9


def choose_shape(profile: Profile) -> ModelShape:
    """The base's shape; without a base, that of the ladder whose size is nearest (as a ratio) to the one wanted.

    Raises:
        PlanError: the base is not known yet, or was made for shorter sequences.
    """
    if profile.base is not None:
        return _base_shape(profile.base, profile.model.sequence_length)
    wanted = profile.model.parameters
    assert wanted is not None  # the profile's validation
    return min(_shapes(profile, wanted), key=lambda shape: abs(math.log(shape.num_parameters / wanted)))


def _base_shape(base: Base, sequence_length: int) -> ModelShape:
    known = base.known
    if known is None:
        raise PlanError(
            "what the base is has not been looked up yet",
            got=base.model,
            hint="`sovereign train PROFILE` looks it up in store and registry; a folder must be on this machine",
        )
    if sequence_length > known.max_sequence_length:
        raise PlanError(
            "the base was made for shorter sequences",
            got=f"model.sequence_length of {sequence_length}",
            expected=f"at most {known.max_sequence_length}",
        )
    rows = max(known.vocab_size, known.tokenizer_size + base.new_tokens) if base.new_tokens else known.vocab_size
    shape = ModelShape(
        vocab_size=rows,
        sequence_length=sequence_length,
        **known.model_dump(exclude={"digest", "vocab_size", "tokenizer_size", "max_sequence_length", "gguf_obstacle"}),
    )
    if base.method == "full":
        return shape
    sizes = sum(sum(shape.linear_sizes(name)) for name in base.lora.target_modules)
    trained = shape.num_layers * base.lora.rank * sizes
    if base.new_tokens:  # the new rows must be learned
        trained += shape.num_embedding_parameters
    return shape.model_copy(update={"num_trained": trained})


def _shapes(profile: Profile, wanted: float) -> list[ModelShape]:
    return [
        ModelShape(
            num_layers=layers,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=profile.model.vocab_size,
            sequence_length=profile.model.sequence_length,
            tied=wanted < _TIED_BELOW,
        )
        for layers, width, feed_forward, heads, kv_heads, head_dim in _LADDER
    ]


def ladder_sizes(profile: Profile) -> list[int]:
    """Parameter counts that can be asked for and are met exactly."""
    both = [shape.num_parameters for wanted in (0, _TIED_BELOW) for shape in _shapes(profile, wanted)]
    return [size for size in both if choose_shape(with_parameters(profile, size)).num_parameters == size]


def with_parameters(profile: Profile, parameters: float) -> Profile:
    """`profile`, asking for a model of another size."""
    return profile.model_copy(update={"model": profile.model.model_copy(update={"parameters": parameters})})
