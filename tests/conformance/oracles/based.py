"""Based as its repository stores it (HazyResearch/based): layers of BaseConv, of linear attention by the Taylor series of exp and of
attention within a window, against a float64 NumPy twin written from arXiv 2402.18668 and the keys of based/models; its linear attention
is the sum over all pairs of steps, without a feature map.

held_to/hazyresearch_based.py compares it with HazyResearch/based 32c1bd4, GPTLMHeadModel with its mixers and MLPs in float64,
where what it imports from flash_attn, hydra and flash-linear-attention (embedding, MHA, rotary embedding, windowed attention,
parallel_based) is written out plainly: logits with seeds 1 to 5 differ by 2.1e-15 of the largest at most."""

import functools
import json

import numpy as np
import torch

import case
from plain import *

TWIN = case.held_to("float64 NumPy twin (oracles/based.py)", "HazyResearch/based 32c1bd4", "3e-15")
PACKAGE = "based.models.mixers."


def base_conv(weights, prefix, tag, config, layer, x):
    u, gate = np.split(linear(weights, prefix + "in_proj", x), 2, -1)
    mixed = convolution(u, weights[prefix + "conv.conv.weight"], weights.get(prefix + "conv.conv.bias", 0))
    channels, _, taps = weights[prefix + "conv.conv.weight"].shape
    # The inputs that the taps still reach move up by one a step: each channel's register is nilpotent.
    register = np.broadcast_to(np.eye(taps - 1, k=-1), (channels, taps - 1, taps - 1))
    assert not np.linalg.matrix_power(register, taps - 1).any()
    transition = case.log_magnitude(np.full((channels, 1), -np.inf)) if taps > 1 else None  # a single tap keeps nothing
    return linear(weights, prefix + "out_proj", silu(mixed) * gate), "convolution", transition


def taylor_attention(weights, prefix, tag, config, layer, x):
    count, fla = tag["num_heads"], tag.get("parallel_implementation", "quadratic").startswith("fla")
    q, k = (heads(linear(weights, prefix + name, x), tag["feature_dim"]) for name in ("proj_q", "proj_k"))
    v = linear(weights, prefix + "proj_v", x)
    v = heads(v, v.shape[-1] // count)
    size = tag["feature_dim"] if fla else tag["feature_map"]["input_dim"]
    s = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(size)
    kernel = np.tril(1 + s + s * s / 2)
    normaliser = kernel.sum(-1) + (1e-6 if fla else 1e-12)  # [B,H,T]
    y = np.einsum("bhij,bjhd->bihd", kernel / normaliser[..., None], v)
    ratio = np.log(normaliser[..., :-1]) - np.log(normaliser[..., 1:])
    return linear(weights, prefix + "out_proj", flat(y)), "based", case.log_magnitude(ratio.transpose(0, 2, 1)[..., None])


def softmax_attention(weights, prefix, tag, config, layer, x):
    count, groups = config["n_head"], config.get("n_head_kv") or config["n_head"]
    size = config["n_embd"] // count
    q, k, v = (heads(y, size) for y in np.split(linear(weights, prefix + "Wqkv", x), [count * size, (count + groups) * size], -1))
    turned = int(config.get("rotary_emb_fraction", 0) * size)
    if turned:
        q, k = (rotary(y, config.get("rotary_emb_base", 10000.0), turned, config.get("rotary_emb_interleaved", False)) for y in (q, k))
    if not config.get("scale_attn_weights", True):
        q = q * np.sqrt(size)
    if config.get("scale_attn_by_inverse_layer_idx"):
        q = q / (layer + 1)
    # The repository's window of n steps is flash-attention's (n//2, 0), which shows a step itself and n//2 before it.
    o, lse = attention(q, k, v, tag["window_size"] // 2 + 1 if tag else None)
    return linear(weights, prefix + "out_proj", flat(o)), "attention", case.softmax(lse)


MIXERS = {"BaseConv": base_conv, "LinearAttention": taylor_attention, "SlidingAttention": softmax_attention, None: softmax_attention}


def described(config, layer):
    """Where the layer's mixer is described: the mixer's class and its settings."""
    tag = "alt_mixer_2" if layer in config["alt_mixer_2_layers"] else "alt_mixer" if layer in config["alt_mixer_layers"] else "mixer"
    settings = config.get(tag)
    return MIXERS[settings["_target_"].split(".")[-1] if settings else None], settings


def gelu(x):
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def network(weights, prefix, config, x):
    name = config["activation_function"]
    gates = {"swiglu": silu, "glu": sigmoid, "geglu": gelu}
    if name not in gates:
        return linear(weights, prefix + "fc2", {"gelu_new": gelu_tanh, "relu": relu, "sqrelu": lambda y: relu(y) ** 2}[name](
            linear(weights, prefix + "fc1", x)))
    if config.get("mlp_type", "base") == "base":
        y, gate = np.split(linear(weights, prefix + "fc1", x), 2, -1)
    else:
        gate, y = linear(weights, prefix + "fc1", x), linear(weights, prefix + "fc3", x)
    return linear(weights, prefix + "fc2", y * gates[name](gate))


def normed(weights, name, config, x):
    if config["rms_norm"]:
        return rms_norm(x, weights[name + ".weight"], config["layer_norm_epsilon"])
    return layer_norm(x, weights[name + ".weight"], weights[name + ".bias"], config["layer_norm_epsilon"])


def forward(weights, config, tokens):
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    x, transitions = weights["transformer.embeddings.word_embeddings.weight"][tokens], {}
    if config["max_position_embeddings"]:
        x = x + weights["transformer.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    inputs = [x]
    for layer in range(config["n_layer"]):
        block = f"transformer.layers.{layer}."
        mixer, tag = described(config, layer)
        out, name, transition = mixer(weights, block + "mixer.", tag, config, layer, normed(weights, block + "norm1", config, x))
        if transition is not None:
            transitions[f"layers.{layer}.{name}"] = transition
        x = x + out
        x = x + network(weights, block + "mlp.", config, normed(weights, block + "norm2", config, x))
        inputs.append(x)
    x = normed(weights, "transformer.ln_f", config, x)
    head = "transformer.embeddings.word_embeddings" if config.get("tie_word_embeddings", True) else "lm_head"
    return linear(weights, head, x), transitions, inputs


def mixer_shapes(config, layer):
    width = config["n_embd"]
    mixer, tag = described(config, layer)
    if mixer is base_conv:
        inner = tag["expand_proj"] * width
        found = {"in_proj.weight": (inner, width), "conv.conv.weight": (inner // 2, 1, tag.get("kernel_size", 3)),
                 "out_proj.weight": (width, inner // 2)}
        if tag["use_bias"]:
            found |= {"in_proj.bias": (inner,), "out_proj.bias": (width,)}
        return found | ({"conv.conv.bias": (inner // 2,)} if tag.get("use_cuda") else {})
    if mixer is taylor_attention:
        keys = tag["num_heads"] * tag["feature_dim"]
        values = tag["num_heads"] * (tag.get("head_dim") or width // tag["num_heads"])
        return {"proj_q.weight": (keys, width), "proj_k.weight": (keys, width), "proj_v.weight": (values, width),
                "out_proj.weight": (width, values)}
    rows = width + 2 * width // config["n_head"] * (config.get("n_head_kv") or config["n_head"])
    found = {"Wqkv.weight": (rows, width), "out_proj.weight": (width, width)}
    if config["qkv_proj_bias"]:
        found["Wqkv.bias"] = (rows,)
    return found | ({"out_proj.bias": (width,)} if config["out_proj_bias"] else {})


def shapes(config):
    width, padding = config["n_embd"], config["pad_vocab_size_multiple"]
    rows = -(-config["vocab_size"] // padding) * padding
    norm = {"weight": (width,)} if config["rms_norm"] else {"weight": (width,), "bias": (width,)}
    found = {"transformer.embeddings.word_embeddings.weight": (rows, width), "lm_head.weight": (rows, width)}
    if config["max_position_embeddings"]:
        found["transformer.embeddings.position_embeddings.weight"] = (config["max_position_embeddings"], width)
    found |= {f"transformer.ln_f.{key}": shape for key, shape in norm.items()}
    for layer in range(config["n_layer"]):
        block = f"transformer.layers.{layer}."
        found |= {f"{block}mixer.{key}": shape for key, shape in mixer_shapes(config, layer).items()}
        found |= {f"{block}{name}.{key}": shape for name in ("norm1", "norm2") for key, shape in norm.items()}
        gated = config["activation_function"].endswith("glu")
        plain = config.get("mlp_type", "base") == "base"
        hidden = config["n_inner"] or (8 * width // 3 if gated else 4 * width)
        hidden = hidden if plain else int(2 * width * config["ff_mult"] / 3)
        hidden = -(-hidden // 256) * 256 if gated else hidden
        sizes = {"fc1": ((2 if gated and plain else 1) * hidden, width), "fc2": (width, hidden)}
        if gated and not plain:
            sizes["fc3"] = (hidden, width)
        for name, shape in sizes.items():
            found[f"{block}mlp.{name}.weight"] = shape
            if config["mlp_fc1_bias"]:
                found[f"{block}mlp.{name}.bias"] = shape[:1]
    return found


def make(directory, rng, *, kinds="CLS", hub=True, linear_attention=(), convolution=(), steps=None, **settings):
    """kinds: of each layer, C of a convolution, L of linear attention or S of attention; hub: with the hub's prefix and metrics."""
    count, size = int(rng.integers(1, 4)), 2 * int(rng.integers(2, 5))
    window = 2 * int(rng.integers(3, 12))
    config = {
        "n_embd": 24, "n_head": 3, "n_layer": len(kinds), "n_inner": 48, "n_positions": 2048, "max_position_embeddings": 0,
        "vocab_size": int(rng.integers(20, 50)), "pad_vocab_size_multiple": 8, "rms_norm": True, "layer_norm_epsilon": 1e-5,
        "activation_function": "swiglu", "mlp_fc1_bias": False, "mlp_fc2_bias": False, "qkv_proj_bias": False, "out_proj_bias": False,
        "rotary_emb_fraction": 1, "residual_in_fp32": True, "special_initializer": True, "fused_mlp": False, "use_flash_attn": True,
        "alt_mixer_layers": [layer for layer, kind in enumerate(kinds) if kind == "L"],
        "alt_mixer_2_layers": [layer for layer, kind in enumerate(kinds) if kind == "S"],
        "mixer": {"_target_": PACKAGE + "convolution.BaseConv", "l_max": 2048, "use_bias": True, "expand_proj": 4, "kernel_sizes": 3}
        | dict(convolution),
        "alt_mixer": {"_target_": PACKAGE + "linear_attention.LinearAttention", "l_max": 2048, "num_heads": count, "feature_dim": size,
                      "feature_map": {"_target_": PACKAGE + "linear_attention.TaylorExp", "input_dim": size}}
        | dict(linear_attention),
        "alt_mixer_2": {"_target_": PACKAGE + "slide_attention.SlidingAttention", "window_size": window, "num_heads": 3, "causal": True},
    } | settings
    weights = draw(rng, shapes(config))
    if config.get("tie_word_embeddings", True):
        weights["lm_head.weight"] = weights["transformer.embeddings.word_embeddings.weight"]
    tokens = rng.integers(0, config["vocab_size"], (2, steps or int(rng.integers(70, 100))))
    logits, transitions, layer_inputs = forward(weights, config, tokens)
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "config.json").write_text(json.dumps(config))
    state = {("model." if hub else "") + key: torch.from_numpy(value).float() for key, value in weights.items()}
    if hub:
        state |= {f"{name}_metrics.num-tokens.count": torch.tensor(7) for name in ("train", "val")}
    torch.save(state, directory / "checkpoint" / "pytorch_model.bin")
    case.write(directory, reference=TWIN, tokens=tokens, logits=logits, transitions=transitions, layer_inputs=layer_inputs,
               dtypes=("float64", "float32"))


CASES = {
    "based/hazyresearch/hub": make,
    "based/hazyresearch/trainer": functools.partial(
        make, kinds="LSCL", hub=False, linear_attention={"parallel_implementation": "fla_parallel", "head_dim": 6},
        convolution={"kernel_size": 4, "expand_proj": 2, "use_bias": False, "use_cuda": True}, n_inner=None, activation_function="glu",
        mlp_fc1_bias=True, mlp_fc2_bias=True, rotary_emb_fraction=0.5, rotary_emb_interleaved=True, qkv_proj_bias=True,
        out_proj_bias=True, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
    "based/hazyresearch/full_attention": functools.partial(
        make, kinds="SLC", alt_mixer_2=None, n_head_kv=1, rms_norm=False, max_position_embeddings=128, rotary_emb_fraction=0,
        activation_function="gelu_new", scale_attn_weights=False, convolution={"kernel_size": 1},
        linear_attention={"feature_map": {"_target_": PACKAGE + "linear_attention.TaylorExp", "input_dim": 16}}),
    "based/hazyresearch/two_matrices": functools.partial(
        make, kinds="CLL", activation_function="geglu", mlp_type="alt", ff_mult=4, rms_norm=False, steps=2),
}
