"""Llama's relatives against Hugging Face transformers, in float64 throughout (hugging_face.in_float64). log λ is of the oracle's own
scores: its q and k behind norms and rotary embeddings, its own mask (windows), cap and sinks.

fla's `transformer` has no class that runs without a GPU (its attention is flash_attn's, its norms and rotary embeddings are
Triton's); it is defined as a Llama with fla's names (flash-linear-attention at bc3b101d, fla/models/transformer and
fla/layers/attn.py), so transformers' Qwen2 and Qwen3 of the same mathematics are run and saved under its keys.
"""

import functools
import json

import transformers
from safetensors.torch import load_file, save_file

import case
import hugging_face


def make(directory, rng, kind, steps=None, heads=4, **settings):
    """`kind` is transformers' prefix of the classes; settings may be functions of rng."""
    settings = {key: value(rng) if callable(value) else value for key, value in settings.items()}
    settings.setdefault("num_key_value_heads", heads)
    settings.setdefault("hidden_size", 2 * heads * int(rng.integers(4, 10)))
    settings.setdefault("intermediate_size", int(rng.integers(20, 90)))
    settings.setdefault("num_hidden_layers", 3)
    settings.setdefault("max_position_embeddings", 128)
    with hugging_face.in_float64():
        config = getattr(transformers, kind + "Config")(
            vocab_size=50, num_attention_heads=heads, pad_token_id=None, bos_token_id=None, eos_token_id=None, **settings)
    hugging_face.float64_attention_model(directory, rng, getattr(transformers, kind + "ForCausalLM"), config,
                                         steps or int(rng.integers(20, 60)))


def head(low, high):
    """An even head_dim, whatever the width."""
    return lambda rng: 2 * int(rng.integers(low, high))


def old_spelling(directory, rng, **rest):
    """The same with config.json as transformers before 5 wrote it."""
    make(directory, rng, **rest)
    path = directory / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    if "full_attention" in parameters:
        assert parameters["sliding_attention"]["rope_type"] == "default"
        parameters = parameters["full_attention"]
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    if config["rope_scaling"] and "mscale" not in parameters:
        parameters["type"] = parameters.pop("rope_type")
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def silent_rotary(directory, rng, **rest):
    """The same with config.json as one wrote it who relied on the configuration class for the rotary parameters."""
    make(directory, rng, **rest)
    path = directory / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("rope_parameters")["rope_type"] == "yarn"
    path.write_text(json.dumps(config))


# Contexts of 24 steps, so that the sequences below are longer.
YARN = dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=24)
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=24,
                short_factor=[1.0, 1.1, 1.2, 1.5, 2.0, 3.0], long_factor=[1.0, 1.3, 2.0, 4.0, 6.0, 9.0])

LLAMA = {
    "dynamic": dict(steps=45, max_position_embeddings=24, head_dim=10,
                    rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    "dynamic_within": dict(steps=24, max_position_embeddings=24, rope_parameters=dict(rope_type="dynamic", rope_theta=500.0,
                                                                                      factor=3.0)),
    "yarn": dict(head_dim=32, rope_parameters=YARN),
    "yarn_untruncated": dict(head_dim=24, rope_parameters=YARN | dict(truncate=False, beta_fast=16.0, beta_slow=2.0)),
    "yarn_magnitudes": dict(head_dim=12, rope_parameters=YARN | dict(mscale=0.7, mscale_all_dim=1.3)),
    "yarn_attention_factor": dict(head_dim=12, num_key_value_heads=1, rope_parameters=YARN | dict(attention_factor=1.4)),
    "longrope": dict(steps=40, head_dim=12, rope_parameters=LONGROPE),
    "longrope_within": dict(steps=24, head_dim=12, rope_parameters=LONGROPE | dict(factor=3.0)),
}
CASES = {f"llama/huggingface/{name}": functools.partial(make, kind="Llama", **settings) for name, settings in LLAMA.items()}
CASES |= {
    "llama/huggingface/old_yarn": functools.partial(old_spelling, kind="Llama", head_dim=16, rope_parameters=YARN),
    "llama/huggingface/old_llama3": functools.partial(
        old_spelling, kind="Llama", rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                                                         high_freq_factor=4.0, original_max_position_embeddings=64)),
    # Windows that end before, at and behind the end of the sequence.
    "mistral/huggingface/window": functools.partial(make, kind="Mistral", num_key_value_heads=2, sliding_window=7, head_dim=head(3, 9)),
    "mistral/huggingface/as_long_as_the_window": functools.partial(make, kind="Mistral", steps=16, sliding_window=16),
    "mistral/huggingface/one_longer_than_the_window": functools.partial(make, kind="Mistral", steps=17, sliding_window=16),
    "mistral/huggingface/window_of_one": functools.partial(make, kind="Mistral", sliding_window=1),
    "mistral/huggingface/no_window": functools.partial(make, kind="Mistral", num_key_value_heads=1, sliding_window=None),
    # Beyond the windows that fused operators take.
    "mistral/huggingface/wide_window": functools.partial(make, kind="Mistral", steps=409, max_position_embeddings=512,
                                                         num_key_value_heads=2, sliding_window=150),
    "mistral/huggingface/old_yarn": functools.partial(old_spelling, kind="Mistral", sliding_window=9, head_dim=16,
                                                      rope_parameters=YARN),
    "ministral/huggingface/layer_types": functools.partial(
        make, kind="Ministral", num_key_value_heads=2, head_dim=head(3, 9), sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "qwen2/huggingface/upper_window": functools.partial(make, kind="Qwen2", num_key_value_heads=2, use_sliding_window=True,
                                                        sliding_window=8, max_window_layers=1),
    "qwen2/huggingface/plain_tied": functools.partial(make, kind="Qwen2", heads=6, num_key_value_heads=3, tie_word_embeddings=True,
                                                      rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen2/huggingface/layer_types": functools.partial(
        make, kind="Qwen2", use_sliding_window=True, sliding_window=5, rope_parameters=YARN,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "qwen3/huggingface/grouped": functools.partial(make, kind="Qwen3", num_key_value_heads=2, head_dim=head(3, 11)),
    "qwen3/huggingface/one_group_tied_biases": functools.partial(
        make, kind="Qwen3", heads=3, num_key_value_heads=1, head_dim=head(3, 11), tie_word_embeddings=True, attention_bias=True,
        rms_norm_eps=1e-3, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen3/huggingface/window": functools.partial(make, kind="Qwen3", head_dim=32, use_sliding_window=True, sliding_window=9,
                                                  max_window_layers=2),
    "olmo2/huggingface/grouped": functools.partial(make, kind="Olmo2", num_key_value_heads=2),
    "olmo2/huggingface/biases_tied": functools.partial(make, kind="Olmo2", attention_bias=True, tie_word_embeddings=True,
                                                       rms_norm_eps=1e-3, rope_parameters=YARN),
    "olmo3/huggingface/windows": functools.partial(make, kind="Olmo3", num_key_value_heads=2, num_hidden_layers=5, sliding_window=6),
    "olmo3/huggingface/yarn": functools.partial(
        make, kind="Olmo3", num_hidden_layers=4, sliding_window=8, hidden_size=64,
        rope_parameters=dict(full_attention=YARN, sliding_attention=dict(rope_type="default", rope_theta=5000.0))),
    "olmo3/huggingface/old_yarn": functools.partial(
        old_spelling, kind="Olmo3", num_hidden_layers=4, sliding_window=8,
        rope_parameters=dict(full_attention=YARN, sliding_attention=dict(rope_type="default", rope_theta=5000.0))),
    "gemma2/huggingface/windows": functools.partial(make, kind="Gemma2", num_key_value_heads=2, head_dim=head(3, 9), sliding_window=7,
                                                    query_pre_attn_scalar=11, attn_logit_softcapping=2.0,
                                                    final_logit_softcapping=3.0),
    "gemma2/huggingface/uncapped_untied": functools.partial(make, kind="Gemma2", head_dim=8, sliding_window=100,
                                                            attn_logit_softcapping=None, final_logit_softcapping=None,
                                                            tie_word_embeddings=False, attention_bias=True),
    "gemma2/huggingface/defaults": functools.partial(make, kind="Gemma2", num_key_value_heads=1, head_dim=10),
    "granite/huggingface/multipliers": functools.partial(make, kind="Granite", num_key_value_heads=2, embedding_multiplier=6.0,
                                                         residual_multiplier=0.3, attention_multiplier=0.2, logits_scaling=5.0),
    "granite/huggingface/biases_tied": functools.partial(make, kind="Granite", attention_bias=True, mlp_bias=True,
                                                         attention_multiplier=0.4, tie_word_embeddings=True),
    "gpt_oss/huggingface/windows": functools.partial(make, kind="GptOss", num_key_value_heads=2, head_dim=head(3, 9), sliding_window=6,
                                                     num_local_experts=5, num_experts_per_tok=2),
    "gpt_oss/huggingface/one_expert": functools.partial(make, kind="GptOss", head_dim=8, sliding_window=12, num_local_experts=3,
                                                        num_experts_per_tok=1, attention_bias=False, swiglu_limit=0.5,
                                                        rope_parameters=dict(rope_type="default", rope_theta=1e4)),
    "gpt_oss/huggingface/silent_rotary": functools.partial(silent_rotary, kind="GptOss", num_key_value_heads=2, head_dim=32,
                                                           sliding_window=9, num_local_experts=4, num_experts_per_tok=2),
}


# --- fla's transformer ---


def make_fla(directory, rng, kind, window, **settings):
    make(directory, rng, kind, **settings)
    folder = directory / "checkpoint"
    config = json.loads((folder / "config.json").read_text())
    names = {"model.embed_tokens.": "model.embeddings.", ".self_attn.": ".attn.", ".input_layernorm.": ".attn_norm.",
             ".post_attention_layernorm.": ".mlp_norm."}
    tensors = load_file(folder / "model.safetensors")
    for old, new in names.items():
        tensors = {key.replace(old, new): value for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(
        model_type="transformer", architectures=["TransformerForCausalLM"], hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"], num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"], qkv_bias=kind == "Qwen2", qk_norm=kind == "Qwen3", window_size=window,
        rope_theta=config["rope_parameters"]["rope_theta"], max_position_embeddings=2048, hidden_ratio=4,
        intermediate_size=config["intermediate_size"], hidden_act="swish", norm_eps=config["rms_norm_eps"], fuse_norm=True,
        fuse_swiglu=True, tie_word_embeddings=config["tie_word_embeddings"], vocab_size=50, attnres_block_size=None)))
    case.add_facts(directory, reference=hugging_face.REFERENCE + f" ({kind} under fla's keys)")


CASES |= {
    "transformer/fla/biases_window": functools.partial(
        make_fla, kind="Qwen2", window=6, num_key_value_heads=2, use_sliding_window=True, sliding_window=6, max_window_layers=0),
    # fla's norms of q and k have their own ε of 1e-5.
    "transformer/fla/qk_norm": functools.partial(make_fla, kind="Qwen3", window=None, hidden_size=48, head_dim=12,
                                                 rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=3e4)),
}
