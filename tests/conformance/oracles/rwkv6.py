"""RWKV-6 against a float64 NumPy twin of arXiv 2404.05892, step by step with every Λ_i as a matrix, in both layouts.

held_to/rwkv_lm.py compares it with RWKV-LM 524481d, RWKV-v5/rwkv_v6_demo.py, in float64 and with a plain loop in place of the
kernel: logits with seeds 1 to 5 differ by 3.2e-14 of the largest at most. held_to/flash_linear_attention.py, with
flash-linear-attention bc3b101, the models themselves in float64 with naive_recurrent_rwkv6: by 4e-14."""

import functools
import json

import numpy as np
import torch
from safetensors.numpy import save_file

import case
from plain import *

TWIN = "float64 NumPy twin, step by step (oracles/rwkv6.py)"


def time_mix(p, x, *, norm_eps):
    """p: the layer's tensors by RWKV-LM's names. Returns the output and log λ."""
    count, key_size = p["time_faaaa"].shape
    xx = shifted(x) - x
    inner = np.tanh((x + xx * p["time_maa_x"].reshape(-1)) @ p["time_maa_w1"])
    inner = inner.reshape(*x.shape[:2], 5, -1)
    mixed = {letter: x + xx * (p["time_maa_" + letter].reshape(-1) + inner[:, :, i] @ p["time_maa_w2"][i])
             for i, letter in enumerate("wkvrg")}
    w = p["time_decay"].reshape(-1) + np.tanh(mixed["w"] @ p["time_decay_w1"]) @ p["time_decay_w2"]
    log_decay = heads(-np.exp(w), key_size)
    r, k = heads(mixed["r"] @ p["receptance.weight"].T, key_size), heads(mixed["k"] @ p["key.weight"].T, key_size)
    v = mixed["v"] @ p["value.weight"].T
    v = heads(v, v.shape[-1] // count)
    o = recurrence(diagonal(np.exp(log_decay)), r, k, v, bonus=p["time_faaaa"])
    o = flat(layer_norm(o, 1, 0, norm_eps)) * p["ln_x.weight"] + p["ln_x.bias"]
    return (o * silu(mixed["g"] @ p["gate.weight"].T)) @ p["output.weight"].T, log_decay


def channel_mix(p, x):
    xx = shifted(x) - x
    k, r = (x + xx * p["time_maa_" + letter].reshape(-1) for letter in "kr")
    return sigmoid(r @ p["receptance.weight"].T) * (relu(k @ p["key.weight"].T) ** 2 @ p["value.weight"].T)


def forward(weights, layers, tokens, *, eps=1e-5, norm_eps=64e-5, norm_first=True, head="head"):
    """weights: by RWKV-LM's names. Returns logits, every layer's log λ, and x before each layer and after the last."""
    norm = lambda name, x: layer_norm(x, weights[name + ".weight"], weights.get(name + ".bias", 0), eps)
    part = lambda prefix: {key[len(prefix):]: w for key, w in weights.items() if key.startswith(prefix)}
    x = weights["emb.weight"][tokens]
    if norm_first:
        x = norm("blocks.0.ln0", x)
    transitions, inputs = {}, [x]
    for layer in range(layers):
        block = f"blocks.{layer}."
        out, log_decay = time_mix(part(block + "att."), norm(block + "ln1", x), norm_eps=norm_eps)
        x = x + out
        x = x + channel_mix(part(block + "ffn."), norm(block + "ln2", x))
        transitions[f"layers.{layer}.rwkv6"] = case.log_magnitude(log_decay)
        inputs.append(x)
    return linear(weights, head, norm("ln_out", x)), transitions, inputs


def shapes(layers, width, count, key_size, value_size, vocabulary, hidden, ranks):
    mix, decay = ranks
    keys, values = count * key_size, count * value_size
    found = {"emb.weight": (vocabulary, width), "blocks.0.ln0.weight": (width,), "blocks.0.ln0.bias": (width,)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        for norm in ("ln1", "ln2"):
            found |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        att = {f"time_maa_{letter}": (1, 1, width) for letter in "xwkvrg"}
        att |= {"time_maa_w1": (width, 5 * mix), "time_maa_w2": (5, mix, width), "time_decay": (1, 1, keys),
                "time_decay_w1": (width, decay), "time_decay_w2": (decay, keys), "time_faaaa": (count, key_size),
                "receptance.weight": (keys, width), "key.weight": (keys, width), "value.weight": (values, width),
                "gate.weight": (values, width), "output.weight": (width, values), "ln_x.weight": (values,),
                "ln_x.bias": (values,)}
        found |= {f"{block}att.{name}": shape for name, shape in att.items()}
        found |= {f"{block}ffn.time_maa_k": (1, 1, width), f"{block}ffn.time_maa_r": (1, 1, width),
                  f"{block}ffn.key.weight": (hidden, width), f"{block}ffn.receptance.weight": (width, width),
                  f"{block}ffn.value.weight": (width, hidden)}
    return found | {"ln_out.weight": (width,), "ln_out.bias": (width,), "head.weight": (vocabulary, width)}


def drawn(rng, layers, width=None, count=None, key_size=None, value_size=None):
    count = count or int(rng.integers(1, 4))
    key_size = key_size or int(rng.integers(8, 13))
    sizes = dict(layers=layers, width=width or count * key_size, count=count, key_size=key_size,
                 value_size=value_size or key_size, vocabulary=int(rng.integers(20, 50)), hidden=int(rng.integers(10, 50)),
                 ranks=rng.integers(2, 7, 2).tolist())
    weights = draw(rng, shapes(**sizes), scale={"time_maa_w2": 0.3, "time_decay_w2": 0.5, "time_decay": 2})
    for key in weights:
        if ".ln" in key and key.endswith(".weight"):
            weights[key] = (1 + weights[key]).astype(np.float32).astype(np.float64)
    return weights, sizes


def some_tokens(rng, vocabulary):
    return rng.integers(0, vocabulary, (2, int(rng.integers(30, 75))))


def rwkv_lm(directory, rng, dtype=torch.float32, layers=3, settings=None, norm_eps=64e-5, **sizes):
    weights, sizes = drawn(rng, layers, **sizes)
    stored = {key: torch.from_numpy(value).to(dtype) for key, value in weights.items()}
    torch.save(stored, directory / "model.pth")
    weights = {key: value.double().numpy() for key, value in stored.items()}
    tokens = some_tokens(rng, sizes["vocabulary"])
    logits, transitions, inputs = forward(weights, layers, tokens, norm_eps=norm_eps)
    case.write(directory, reference=case.held_to(TWIN, "RWKV-LM 524481d", "4e-14"), tokens=tokens, logits=logits,
               transitions=transitions, layer_inputs=inputs, dtypes=("float64", "float32"), checkpoint="model.pth",
               settings=settings)


FLA_NAMES = {"att.time_faaaa": "attn.bonus", "att.time_decay": "attn.w_proj.linear.lora.2.bias",
             "att.time_maa_x": "attn.x_proj.0.mu", "att.receptance.weight": "attn.r_proj.linear.weight",
             "att.key.weight": "attn.k_proj.linear.weight", "att.value.weight": "attn.v_proj.linear.weight",
             "att.gate.weight": "attn.g_proj.linear.weight", "att.output.weight": "attn.o_proj.weight",
             "ffn.time_maa_k": "ffn.key.mu", "ffn.time_maa_r": "ffn.receptance.mu",
             "ffn.key.weight": "ffn.key.linear.weight", "ffn.receptance.weight": "ffn.receptance.linear.weight",
             "ffn.value.weight": "ffn.value.weight"}


def fla_weights(weights, layers):
    """flash-linear-attention's keys and shapes of RWKV-LM's tensors."""
    stored = {"model.embeddings.weight": weights["emb.weight"], "lm_head.weight": weights["head.weight"]}
    for kind in ("weight", "bias"):
        stored[f"model.layers.0.pre_norm.{kind}"] = weights[f"blocks.0.ln0.{kind}"]
        stored[f"model.norm.{kind}"] = weights[f"ln_out.{kind}"]
    for layer in range(layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            stored[f"{theirs}attn_norm.{kind}"] = weights[f"{ours}ln1.{kind}"]
            stored[f"{theirs}ffn_norm.{kind}"] = weights[f"{ours}ln2.{kind}"]
            stored[f"{theirs}attn.g_norm.{kind}"] = weights[f"{ours}att.ln_x.{kind}"]
        for name, other in FLA_NAMES.items():
            tensor = weights[ours + name]
            stored[theirs + other] = tensor.reshape(-1) if tensor.ndim == 3 else tensor
        stored[theirs + "attn.x_bias"] = np.concatenate(
            [weights[f"{ours}att.time_maa_{letter}"] for letter in "rwkvg"]).reshape(5, -1)
        order = ["wkvrg".index(letter) for letter in "rwkvg"]
        down = weights[ours + "att.time_maa_w1"]  # [D,5·r]
        stored[theirs + "attn.x_proj.0.linear.weight"] = np.concatenate([np.split(down, 5, axis=1)[i] for i in order], 1).T
        up = weights[ours + "att.time_maa_w2"][order]  # [5,r,D]
        stored[theirs + "attn.x_proj.2.weight"] = up.reshape(-1, up.shape[-1]).T
        stored[theirs + "attn.w_proj.linear.lora.0.weight"] = weights[ours + "att.time_decay_w1"].T
        stored[theirs + "attn.w_proj.linear.lora.2.weight"] = weights[ours + "att.time_decay_w2"].T
    return stored


def fla(directory, rng, layers=3, norm_first=True, norm_bias=True, norm_eps=1e-5, tied=False, **sizes):
    weights, sizes = drawn(rng, layers, **({"width": 24, "count": 2, "key_size": 6, "value_size": 12} | sizes))
    if not norm_bias:
        weights = {key: w for key, w in weights.items() if not key.endswith(".bias") or ".ln_x." in key}
        weights |= {f"{name}.bias": np.zeros(sizes["width"]) for name in
                    ["blocks.0.ln0", "ln_out"] + [f"blocks.{i}.ln{j}" for i in range(layers) for j in (1, 2)]}
    stored = fla_weights(weights, layers)
    if not norm_bias:
        stored = {key: w for key, w in stored.items() if not key.endswith("norm.bias") or ".g_norm." in key}
    if not norm_first:
        stored = {key: w for key, w in stored.items() if ".pre_norm." not in key}
    if tied:
        del stored["lm_head.weight"]
    config = {"model_type": "rwkv6", "architectures": ["RWKV6ForCausalLM"], "attn_mode": "chunk",
              "hidden_size": sizes["width"], "num_hidden_layers": layers, "num_heads": sizes["count"],
              "expand_k": sizes["count"] * sizes["key_size"] / sizes["width"],
              "expand_v": sizes["count"] * sizes["value_size"] / sizes["width"], "hidden_ratio": 3.5,
              "intermediate_size": sizes["hidden"], "hidden_act": "sqrelu", "proj_low_rank_dim": sizes["ranks"][0],
              "gate_low_rank_dim": sizes["ranks"][1], "norm_first": norm_first, "norm_bias": norm_bias,
              "norm_eps": norm_eps, "attn": None, "fuse_norm": True, "vocab_size": sizes["vocabulary"],
              "tie_word_embeddings": tied, "max_position_embeddings": 2048}
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "config.json").write_text(json.dumps(config))
    save_file({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in stored.items()},
              directory / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    tokens = some_tokens(rng, sizes["vocabulary"])
    logits, transitions, inputs = forward(weights, layers, tokens, eps=norm_eps, norm_eps=norm_eps,
                                          norm_first=norm_first, head="emb" if tied else "head")
    case.write(directory, reference=case.held_to(TWIN, "flash-linear-attention bc3b101", "5e-14"), tokens=tokens, logits=logits,
               transitions=transitions, layer_inputs=inputs, dtypes=("float64", "float32"))


CASES = {
    "rwkv6/rwkv-lm/float32": rwkv_lm,
    "rwkv6/rwkv-lm/bfloat16": functools.partial(rwkv_lm, dtype=torch.bfloat16, layers=2),
    "rwkv6/rwkv-lm/wide_time_mix": functools.partial(rwkv_lm, width=20, count=3, key_size=9, layers=1,
                                                     settings={"head_size_divisor": 2}, norm_eps=4e-5),
    "rwkv6/fla/plain": fla,
    "rwkv6/fla/equal_sizes": functools.partial(fla, width=24, count=3, key_size=8, value_size=8, norm_eps=1e-4, tied=True),
    "rwkv6/fla/no_bias": functools.partial(fla, norm_first=False, norm_bias=False, layers=2),
}
