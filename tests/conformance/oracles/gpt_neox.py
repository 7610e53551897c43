"""GPT-NeoX and Pythia against Hugging Face transformers, in float64 throughout."""

import functools
import json

import transformers

import hugging_face


def make(directory, rng, **settings):
    heads = settings["num_attention_heads"]
    settings.setdefault("hidden_size", heads * 8 * int(rng.integers(1, 4)))
    config = transformers.GPTNeoXConfig(vocab_size=50, intermediate_size=int(rng.integers(20, 90)), num_hidden_layers=3,
                                        max_position_embeddings=128, bos_token_id=0, eos_token_id=0, **settings)
    hugging_face.float64_attention_model(directory, rng, transformers.GPTNeoXForCausalLM, config, int(rng.integers(20, 60)))


def make_old(directory, rng, **settings):
    """With config.json as the Pythia models of the hub have it."""
    make(directory, rng, **settings)
    path = directory / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config |= {"rotary_pct": parameters["partial_rotary_factor"], "rotary_emb_base": parameters["rope_theta"]}
    path.write_text(json.dumps(config))


CASES = {
    "gpt_neox/huggingface/parallel": functools.partial(make, num_attention_heads=4),
    "gpt_neox/huggingface/sequential": functools.partial(make, num_attention_heads=2, use_parallel_residual=False,
                                                         layer_norm_eps=1e-3, hidden_act="gelu_new"),
    "gpt_neox/huggingface/pythia": functools.partial(make_old, num_attention_heads=3,
                                                     rope_parameters=dict(rope_theta=500.0, partial_rotary_factor=0.5)),
    "gpt_neox/huggingface/unbiased_tied": functools.partial(
        make, num_attention_heads=2, attention_bias=False, tie_word_embeddings=True, hidden_size=48,
        rope_parameters=dict(rope_type="linear", factor=3.0, partial_rotary_factor=1.0)),
}
