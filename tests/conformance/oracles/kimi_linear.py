"""Kimi-Linear against Hugging Face transformers, in float64: its own classes with their delta rule, attention and experts.

What Moonshot publishes is made of what transformers saves, and read again by transformers, whose logits must be the same."""

import contextlib
import functools
import json

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.kimi_linear import modeling_kimi_linear as modeling

import case
import hugging_face
from plain import diagonal, key_side, outer


@contextlib.contextmanager
def recorded_delta_rule():
    """Yields a list to which every call of the delta rule appends the explicit Λ_i = (I - β_i k_i k_iᵀ) diag(α_i) [B,T,H,K,K] of
    what it was handed, and the size of its values."""
    rule = modeling.chunk_kimi_delta_attention
    seen = []

    def recording(query, key, value, g, beta, **named):
        assert named["use_qk_l2norm_in_kernel"] and named["initial_state"] is None
        k = modeling.l2norm(key, dim=-1, eps=1e-6).numpy()
        erased = np.eye(k.shape[-1]) - beta.numpy()[..., None, None] * outer(k, k)
        seen.append((erased @ diagonal(g.exp().numpy()), value.shape[-1]))
        return rule(query, key, value, g=g, beta=beta, **named)

    modeling.chunk_kimi_delta_attention = recording
    try:
        yield seen
    finally:
        modeling.chunk_kimi_delta_attention = rule


def make(directory, rng, *, kinds, publish=None, held=False, steps=None, heads=4, linear_heads=3, experts=4, **settings):
    """kinds: of each layer, L of Kimi Delta Attention or A of attention; held: stored under the names of transformers' modules."""
    config = transformers.KimiLinearConfig(**dict(
        vocab_size=int(rng.integers(30, 60)), hidden_size=4 * int(rng.integers(5, 9)), num_hidden_layers=len(kinds),
        layer_types=[{"L": "linear_attention", "A": "full_attention"}[kind] for kind in kinds], num_attention_heads=heads,
        num_key_value_heads=heads, kv_lora_rank=int(rng.integers(6, 16)), qk_nope_head_dim=int(rng.integers(4, 12)),
        qk_rope_head_dim=int(rng.integers(2, 9)), v_head_dim=int(rng.integers(4, 16)), intermediate_size=int(rng.integers(20, 40)),
        # The norm of a few values that nearly cancel makes float32 a matter of luck.
        linear_head_dim=8 * int(rng.integers(1, 3)), linear_num_heads=linear_heads, num_local_experts=experts,
        num_experts_per_tok=2, moe_intermediate_size=int(rng.integers(10, 30)), pad_token_id=None, bos_token_id=None,
        eos_token_id=None) | settings)
    with hugging_face.in_float64(), torch.no_grad():
        model = transformers.KimiLinearForCausalLM(config)
        inputs = []
        hooks = [layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].numpy()))
                 for layer in [*model.model.layers, model.model.norm]]
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("A_log", "dt_bias")):  # as drawn, most heads forget everything at once
                tensor.copy_(torch.randn_like(tensor))
            elif name.endswith("conv1d.weight"):
                tensor.copy_(0.5 * torch.randn_like(tensor))
            elif name.endswith("e_score_correction_bias"):
                tensor.copy_(0.3 * torch.randn_like(tensor))
        with recorded_delta_rule() as rules, hugging_face.recorded_attention(modeling) as scores:
            tokens, logits = hugging_face.run(directory, rng, model, steps or int(rng.integers(65, 100)))
        for hook in hooks:
            hook.remove()
        checkpoint = directory / "checkpoint"
        if held:
            model.save_pretrained(checkpoint, save_original_format=False)
        if publish is not None:
            publish(checkpoint)
            again = transformers.KimiLinearForCausalLM.from_pretrained(checkpoint).eval()
            again.set_attn_implementation("eager")
            again.set_experts_implementation("eager")
            assert np.array_equal(again(torch.from_numpy(tokens), use_cache=False).logits.numpy(), logits)
            add_what_transformers_does_not_read(checkpoint, config)
    transitions = {}
    for layer, kind in enumerate(kinds):
        if kind == "L":
            transitions[f"layers.{layer}.kda"] = key_side(*rules.pop(0))
        else:
            transitions[f"layers.{layer}.attention"] = case.softmax(scores.pop(0))
    assert not rules and not scores
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions=transitions,
               layer_inputs=inputs, dtypes=("float64", "float32"))


def publish_as_moonshot(checkpoint):
    """Rewrites what transformers saved with Moonshot's keys as Moonshot has them: dense networks under `mlp`, and a configuration
    with its own names of settings, layers counted from one."""
    weights = load_file(checkpoint / "model.safetensors")
    for key in list(weights):
        if ".block_sparse_moe." in key and key.split(".")[4] in ("gate_proj", "up_proj", "down_proj"):
            weights[key.replace(".block_sparse_moe.", ".mlp.")] = weights.pop(key)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    kinds = config.pop("layer_types")
    config["linear_attn_config"] = {
        "kda_layers": [i for i, kind in enumerate(kinds, 1) if kind == "linear_attention"],
        "full_attn_layers": [i for i, kind in enumerate(kinds, 1) if kind == "full_attention"],
        "num_heads": config.pop("linear_num_heads"), "head_dim": config.pop("linear_head_dim"),
        "short_conv_kernel_size": config.pop("linear_conv_kernel_dim")}
    del config["mlp_layer_types"]
    config |= {"first_k_dense_replace": 1, "head_dim": config["hidden_size"] // config["num_attention_heads"], "mla_use_nope": True,
               "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid", "num_nextn_predict_layers": 0, "rope_scaling": None,
               "rope_theta": 10000.0, "topk_method": "noaux_tc", "use_grouped_topk": True}
    (checkpoint / "config.json").write_text(json.dumps(config))


def add_what_transformers_does_not_read(checkpoint, config):
    """A bias of the decays in two dimensions, and a head that drafts further tokens."""
    weights = load_file(checkpoint / "model.safetensors")
    for key in weights:
        if key.endswith("dt_bias"):
            weights[key] = weights[key].reshape(config.linear_num_heads, config.linear_head_dim)
    weights["model.mtp.layers.0.norm.weight"] = torch.ones(config.hidden_size)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


CASES = {
    "kimi_linear/moonshot/published": functools.partial(make, kinds="LLLA", publish=publish_as_moonshot),
    "kimi_linear/moonshot/groups_of_experts": functools.partial(
        make, kinds="AL", experts=6, n_group=3, topk_group=2, num_experts_per_tok=3, norm_topk_prob=False, n_shared_experts=2,
        routed_scaling_factor=1.5, linear_heads=1, heads=1),
    "kimi_linear/huggingface/hybrid": functools.partial(make, kinds="LLAL", held=True),
    "kimi_linear/huggingface/latent_queries": functools.partial(
        make, kinds="AAL", held=True, q_lora_rank=7, attention_bias=True, linear_conv_kernel_dim=3, n_group=2, topk_group=1,
        num_experts_per_tok=1, norm_topk_prob=False, mlp_layer_types=["sparse", "dense", "sparse"], rms_norm_eps=1e-3),
    "kimi_linear/huggingface/dense": functools.partial(make, kinds="LA", held=True, mlp_layer_types=["dense"] * 2, steps=3),
}
