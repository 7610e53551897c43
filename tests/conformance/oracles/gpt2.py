"""GPT-2 against Hugging Face transformers, in float64 end to end."""

import functools

import transformers
from transformers.models.gpt2 import modeling_gpt2

import hugging_face


def make(directory, rng, steps=None, **settings):
    config = transformers.GPT2Config(vocab_size=50, n_embd=12 * int(rng.integers(2, 6)), n_layer=3, n_positions=64,
                                     eos_token_id=1, bos_token_id=1, **settings)
    hugging_face.attention_model(directory, rng, modeling_gpt2, transformers.GPT2LMHeadModel(config).double(),
                                 steps or int(rng.integers(20, 60)), dtypes=("float64", "float32"))


CASES = {
    "gpt2/huggingface/plain": functools.partial(make, n_head=4),
    # 64: every position there is.
    "gpt2/huggingface/by_layer": functools.partial(make, steps=64, n_head=6, scale_attn_by_inverse_layer_idx=True, n_inner=40),
    "gpt2/huggingface/unscaled": functools.partial(make, n_head=3, scale_attn_weights=False, activation_function="gelu",
                                                   layer_norm_epsilon=1e-3),
    "gpt2/huggingface/relu_untied": functools.partial(make, n_head=4, activation_function="relu", tie_word_embeddings=False),
}
