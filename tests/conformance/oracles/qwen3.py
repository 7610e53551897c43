"""Qwen3 against Hugging Face transformers, in float32 (its norms and rotary embeddings are so whatever the model's dtype)."""

import functools

import transformers
from transformers.models.qwen3 import modeling_qwen3

import hugging_face


def make(directory, rng, **settings):
    heads = settings["num_attention_heads"]
    config = transformers.Qwen3Config(vocab_size=50, hidden_size=8 * int(rng.integers(3, 9)),
                                      intermediate_size=int(rng.integers(20, 90)), num_hidden_layers=3,
                                      head_dim=settings.pop("head_dim", 2 * int(rng.integers(3, 11))),
                                      max_position_embeddings=128, **settings)
    assert config.num_attention_heads == heads
    hugging_face.attention_model(directory, rng, modeling_qwen3, transformers.Qwen3ForCausalLM(config),
                                 int(rng.integers(20, 60)))


CASES = {
    "qwen3/huggingface/grouped": functools.partial(make, num_attention_heads=4, num_key_value_heads=2),
    "qwen3/huggingface/one_group_tied_biases": functools.partial(
        make, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True, rms_norm_eps=1e-3,
        rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen3/huggingface/plain": functools.partial(make, num_attention_heads=2, num_key_value_heads=2, head_dim=32),
}
