"""flash-linear-attention's language models as float64 NumPy twins: the shell that all of its mixers share, its checkpoints,
and the parts of mixers that they have in common. Written from the published equations and the keys of
fla/models/*/modeling_*.py (commit bc3b101); each oracle says how its twin was checked."""

import json

import numpy as np
from safetensors.numpy import save_file

import case
from plain import *


def convolved(weights, config, name, x, activation=silu, default=True):
    """NAME_proj, the short convolution where there is one, the activation."""
    y = linear(weights, name + "_proj", x)
    if config.get("use_short_conv", default):
        y = convolution(y, weights[name + "_conv1d.weight"], weights.get(name + "_conv1d.bias", 0))
    return activation(y)


def hybrid_attention(weights, prefix, spec, x):
    count = spec["num_heads"]
    size = x.shape[-1] // count
    q, k, v = (heads(linear(weights, f"{prefix}{name}_proj", x), size) for name in "qkv")
    o, lse = attention(rotary(q, spec.get("rope_theta", 10000.0)), rotary(k, spec.get("rope_theta", 10000.0)), v,
                       spec.get("window_size"))
    return flat(o) @ weights[prefix + "o_proj.weight"].T, "attention", case.softmax(lse)


def mlp(weights, prefix, x):
    gate = linear(weights, prefix + "gate_proj", x)
    gate, up = (gate, linear(weights, prefix + "up_proj", x)) if prefix + "up_proj.weight" in weights else np.split(gate, 2, -1)
    return linear(weights, prefix + "down_proj", silu(gate) * up)


def forward(weights, config, mixer, tokens):
    """mixer(weights, prefix, config, layer, x) -> (output, name of the mixer, its transition). Returns logits,
    transitions, and x before each layer and after the last."""
    eps = config["norm_eps"]
    x, transitions = weights["model.embeddings.weight"][tokens], {}
    inputs = [x]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        normed = rms_norm(x, weights[block + "attn_norm.weight"], eps)
        if layer in (config.get("attn") or {"layers": []})["layers"]:
            out, name, transition = hybrid_attention(weights, block + "attn.", config["attn"], normed)
        else:
            out, name, transition = mixer(weights, block + "attn.", config, layer, normed)
        transitions[f"layers.{layer}.{name}"] = transition
        x = x + out
        x = x + mlp(weights, block + "mlp.", rms_norm(x, weights[block + "mlp_norm.weight"], eps))
        inputs.append(x)
    x = rms_norm(x, weights["model.norm.weight"], eps)
    return linear(weights, "model.embeddings" if config["tie_word_embeddings"] else "lm_head", x), transitions, inputs


def shapes(config, mixer_shapes, fused_mlp=False):
    """mixer_shapes(config) -> {key after "attn.": shape} of one layer."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    if hidden is None:
        hidden = 256 * -(-int(width * config["hidden_ratio"] * 2 / 3) // 256)
    found = {"model.embeddings.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        attn = config.get("attn") or {"layers": []}
        if layer in attn["layers"]:
            keys = width // attn["num_heads"] * attn.get("num_kv_heads", attn["num_heads"])
            own = {"q_proj.weight": (width, width), "k_proj.weight": (keys, width), "v_proj.weight": (keys, width),
                   "o_proj.weight": (width, width)}
            if attn.get("qkv_bias"):
                own |= {"q_proj.bias": (width,), "k_proj.bias": (keys,), "v_proj.bias": (keys,)}
        else:
            own = mixer_shapes(config)
        found |= {f"{block}attn.{key}": shape for key, shape in own.items()}
        found |= {block + "attn_norm.weight": (width,), block + "mlp_norm.weight": (width,),
                  block + "mlp.gate_proj.weight": (hidden * (2 if fused_mlp else 1), width),
                  block + "mlp.down_proj.weight": (width, hidden)}
        if not fused_mlp:
            found[block + "mlp.up_proj.weight"] = (hidden, width)
    return found


def make(directory, rng, twin, config, mixer, mixer_shapes, fused_mlp=False, extra_shapes=None, scale=None, steps=None):
    """Draws a model of `config`, completed by what every fla model has, saves it and writes the case."""
    config = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": int(rng.integers(10, 40)), "hidden_ratio": 4,
              "hidden_act": "swish", "norm_eps": 1e-6, "attn": None, "tie_word_embeddings": False, "attnres_block_size": None,
              "vocab_size": int(rng.integers(20, 50)), "fuse_norm": True, "fuse_swiglu": True} | config
    weights = draw(rng, shapes(config, mixer_shapes, fused_mlp) | (extra_shapes(config) if extra_shapes else {}),
                   scale or {})
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "config.json").write_text(json.dumps(config))
    save_file({key: value.astype(np.float32) for key, value in weights.items()},
              directory / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    tokens = rng.integers(0, config["vocab_size"], (2, steps or int(rng.integers(40, 80))))
    logits, transitions, layer_inputs = forward(weights, config, mixer, tokens)
    case.write(directory, reference=twin, tokens=tokens, logits=logits, transitions=transitions,
               dtypes=("float64", "float32"), layer_inputs=layer_inputs)


def gated_norm(weights, name, o, gate, eps, activation=silu):
    """RMSNorm of every head's o [B,T,H,V], times activation(gate) where there is one -> [B,T,H·V]."""
    normed = flat(rms_norm(o, weights.get(name + ".weight", 1), eps))
    return normed if gate is None else normed * activation(gate)


def conv_shapes(config, sizes, default=True):
    taps = config.get("conv_size", 4)
    return {f"{name}_conv1d.weight": (size, 1, taps) for name, size in sizes.items()} \
        if config.get("use_short_conv", default) else {}
