"""Sizes of models: parameters, floating-point operations and cache bytes, counted from a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

BF16_BYTES = 2


class VisionShape(Protocol):
    """Sizes of a vision tower, mergers included. Each family has its own kind."""

    @property
    def parameters(self) -> int:
        """Parameters with biases and norms."""

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters on all linear layers of the mergers."""

    def flops(self, image_tokens: float) -> float:
        """Operations of one forward pass over an image."""

    def merger_flops(self, image_tokens: float) -> float:
        """The part of `flops` in the mergers, which stage 1 trains."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model: a Qwen3 language model and a vision tower. Fields are named as in the Hugging Face config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    vision: VisionShape

    @classmethod
    def of(cls, config: Mapping, vision: VisionShape) -> "Shape":
        """The shape of a model with this Hugging Face configuration and this vision tower."""
        text = config["text_config"]
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        return cls(
            **{name: text[name] for name in (*names, "head_dim", "vocab_size")},
            tie_word_embeddings=text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)),
            vision=vision,
        )

    @property
    def block_weights(self) -> int:
        """Parameters of one language layer without its norms."""
        heads, key_values = (n * self.head_dim for n in (self.num_attention_heads, self.num_key_value_heads))
        return self.hidden_size * (2 * heads + 2 * key_values + 3 * self.intermediate_size)

    @property
    def language_parameters(self) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        norms = 2 * self.hidden_size + 2 * self.head_dim
        return embeddings + self.num_hidden_layers * (self.block_weights + norms) + self.hidden_size

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision.parameters

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters on all linear layers of the mergers and of the language model except its head."""
        heads, key_values = (n * self.head_dim for n in (self.num_attention_heads, self.num_key_value_heads))
        queries_and_output, both = 2 * (self.hidden_size + heads), 2 * (self.hidden_size + key_values)
        feed_forward = 3 * (self.hidden_size + self.intermediate_size)
        layers = self.num_hidden_layers * (queries_and_output + both + feed_forward)
        return rank * layers + self.vision.adapter_parameters(rank)

    def cache_bytes(self, tokens: float) -> float:
        """Bytes of the keys and values of `tokens` tokens in bfloat16."""
        return tokens * 2 * BF16_BYTES * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def language_flops(self, tokens: float, logits: float) -> float:
        """Operations of a forward pass over a sequence, with causal attention and the logits of `logits` tokens."""
        attention = 2 * self.num_attention_heads * self.head_dim * tokens**2
        layers = self.num_hidden_layers * (2 * self.block_weights * tokens + attention)
        return layers + 2 * self.hidden_size * self.vocab_size * logits
