"""Qwen3-Next against Hugging Face transformers, in float64: its own classes with its delta rule, its attention, its experts."""

import contextlib
import functools

import numpy as np
import torch
import transformers
from transformers.models.qwen3_next import modeling_qwen3_next as modeling

import case
import hugging_face
from plain import key_side, outer


@contextlib.contextmanager
def recorded_delta_rule(modeling):
    """Yields a list to which every call of a modeling module's delta rule appends the explicit Λ_i = α_i (I - β_i k_i k_iᵀ) [B,T,H,K,K] of what
    it was handed, and the size of its values."""
    rule = modeling.torch_chunk_gated_delta_rule
    seen = []

    def recording(query, key, value, g, beta, **named):
        assert named["use_qk_l2norm_in_kernel"] and named["initial_state"] is None
        k = modeling.l2norm(key, dim=-1, eps=1e-6).repeat_interleave(value.shape[2] // key.shape[2], dim=2).numpy()
        erased = np.eye(k.shape[-1]) - beta.numpy()[..., None, None] * outer(k, k)
        seen.append((g.exp().numpy()[..., None, None] * erased, value.shape[-1]))
        return rule(query, key, value, g=g, beta=beta, **named)

    modeling.torch_chunk_gated_delta_rule = recording
    try:
        yield seen
    finally:
        modeling.torch_chunk_gated_delta_rule = rule


def forget_less(model):
    """As drawn, most heads forget everything at once, and the convolutions are near 0."""
    for name, parameter in model.named_parameters():
        if name.endswith(("A_log", "dt_bias")):
            parameter.copy_(torch.randn_like(parameter))
        elif name.endswith("conv1d.weight"):
            parameter.copy_(0.5 * torch.randn_like(parameter))


def transitions_of(kinds, rules, scores):
    """Of layers L of Gated DeltaNet and A of attention, from what recorded_delta_rule and recorded_attention saw."""
    transitions = {}
    for layer, kind in enumerate(kinds):
        if kind == "L":
            transitions[f"layers.{layer}.gated_delta_net"] = key_side(*rules.pop(0))
        else:
            transitions[f"layers.{layer}.attention"] = case.softmax(scores.pop(0))
    assert not rules and not scores
    return transitions


LAYER_TYPES = {"L": "linear_attention", "A": "full_attention"}


def make(directory, rng, *, kinds, steps=None, stacked=False, groups=2, key_heads=2, experts=4, **settings):
    """kinds: of each layer, L of Gated DeltaNet or A of attention."""
    value_size = 8 * int(rng.integers(1, 3))  # the norm of a few values that nearly cancel makes float32 a matter of luck
    config = transformers.Qwen3NextConfig(**dict(
        vocab_size=int(rng.integers(30, 60)), hidden_size=4 * int(rng.integers(5, 9)), num_hidden_layers=len(kinds),
        layer_types=[LAYER_TYPES[kind] for kind in kinds], num_attention_heads=4,
        num_key_value_heads=groups, head_dim=8 * int(rng.integers(1, 4)), intermediate_size=int(rng.integers(20, 40)),
        linear_num_key_heads=key_heads, linear_num_value_heads=4, linear_key_head_dim=2 * int(rng.integers(2, 7)),
        linear_value_head_dim=value_size, num_experts=experts, num_experts_per_tok=2,
        moe_intermediate_size=int(rng.integers(10, 30)), shared_expert_intermediate_size=int(rng.integers(10, 30))) | settings)
    with hugging_face.in_float64(), torch.no_grad():
        model = transformers.Qwen3NextForCausalLM(config)
        inputs = []
        for layer in [*model.model.layers, model.model.norm]:
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].numpy()))
        forget_less(model)
        with recorded_delta_rule(modeling) as rules, hugging_face.recorded_attention(modeling) as scores:
            tokens, logits = hugging_face.run(directory, rng, model, steps or int(rng.integers(70, 100)))
        if stacked:
            model.save_pretrained(directory / "checkpoint", save_original_format=False)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits,
               transitions=transitions_of(kinds, rules, scores), layer_inputs=inputs, dtypes=("float64", "float32"))


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}

CASES = {
    "qwen3_next/huggingface/hybrid": functools.partial(make, kinds="LLLA"),
    "qwen3_next/huggingface/dense_layers": functools.partial(
        make, kinds="AL", key_heads=4, mlp_only_layers=[0], norm_topk_prob=False, attention_bias=True, linear_conv_kernel_dim=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}, tie_word_embeddings=True),
    "qwen3_next/huggingface/every_other_layer": functools.partial(
        make, kinds="LALA", groups=1, key_heads=1, experts=5, decoder_sparse_step=2, rope_parameters=YARN,
        max_position_embeddings=128),
    "qwen3_next/huggingface/stacked_experts": functools.partial(make, kinds="LA", groups=4, stacked=True),
    "qwen3_next/huggingface/no_experts": functools.partial(make, kinds="LA", experts=0, steps=3),
}
