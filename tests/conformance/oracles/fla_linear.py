"""RetNet, GLA, HGRN and HGRN2 against float64 NumPy twins, step by step with every Λ_i as a matrix, in
flash-linear-attention's layout.

held_to/flash_linear_attention.py compares it with flash-linear-attention bc3b101, the models themselves in float64 with their
naive recurrences and reference functions: logits with seeds 1 to 5 differ by 3.3e-14 of the largest at most. With the kernels, in
float32 on Triton's interpreter, checked once by hand: by 3e-5."""

import functools

import numpy as np

import case
from fla_shell import *

TWIN = case.held_to("float64 NumPy twin, step by step (oracles/fla_linear.py)", "flash-linear-attention bc3b101", "4e-14")


def grouped(x, size, config):
    x = heads(x, size)
    return x.repeat(config["num_heads"] // x.shape[2], axis=2)


def output(weights, prefix, config, o, x):
    gate = linear(weights, prefix + "g_proj", x) if config["use_output_gate"] else None
    norm = prefix + ("g_norm_swish_gate" if config["fuse_norm"] and config["use_output_gate"] else "g_norm")
    return linear(weights, prefix + "o_proj", gated_norm(weights, norm, o, gate, config["norm_eps"]))


def sizes(config):
    return (int(config["hidden_size"] * config[name]) // config["num_heads"] for name in ("expand_k", "expand_v"))


def feature_map(config):
    return relu if config.get("feature_map") == "relu" else lambda x: x


def retention(weights, prefix, config, layer, x):
    key_size, value_size = sizes(config)
    q = feature_map(config)(heads(linear(weights, prefix + "q_proj", x), key_size))
    k = feature_map(config)(grouped(linear(weights, prefix + "k_proj", x), key_size, config))
    v = grouped(linear(weights, prefix + "v_proj", x), value_size, config)
    decay = 1 - 2.0 ** (-5 - np.arange(config["num_heads"]))
    matrices = np.broadcast_to(diagonal(np.ones(key_size)) * decay[:, None, None], (*q.shape, key_size))
    o = recurrence(matrices, rotary(q) / np.sqrt(key_size), rotary(k), v)
    return output(weights, prefix, config, o, x), "retention", case.log_magnitude(np.log(decay)[:, None])


def retention_in_state(weights, prefix, config, layer, x):
    """The same with q and k as projected and a state that turns the other way: S'_t = R^-t S_t of rotations by one step's angles."""
    key_size, value_size = sizes(config)
    q, k, v = (heads(linear(weights, prefix + name + "_proj", x), size)
               for name, size in (("q", key_size), ("k", key_size), ("v", value_size)))
    decay = 1 - 2.0 ** (-5 - np.arange(config["num_heads"]))
    turn = rotary(np.broadcast_to(np.eye(key_size), (1, 2, key_size, key_size)))[0, 1]  # Rᵀ = R⁻¹: its rows are the turned axes
    matrices = turn * decay[:, None, None]
    o = recurrence(np.broadcast_to(matrices, (*q.shape, key_size)), q / np.sqrt(key_size), k, v)
    half = key_size // 2
    angles = np.arctan2(np.diagonal(turn, half), np.diagonal(turn)[:half])
    pairs = np.ones((config["num_heads"], half))
    transition = case.log_magnitude(np.log(decay)[:, None] * pairs, phase=angles * pairs) | key_side(matrices, value_size)
    return output(weights, prefix, config, o, x), "retention", transition


def gla(weights, prefix, config, layer, x):
    key_size, value_size = sizes(config)
    part = functools.partial(convolved, weights, config, activation=silu if config["use_short_conv"] else lambda y: y)
    q = feature_map(config)(heads(part(name=prefix + "q", x=x), key_size))
    k = feature_map(config)(grouped(part(name=prefix + "k", x=x), key_size, config))
    v = grouped(part(name=prefix + "v", x=x), value_size, config)
    g = log_sigmoid(linear(weights, prefix + "gk_proj.1", linear(weights, prefix + "gk_proj.0", x))) / 16
    if config.get("clamp_min") is not None:
        g = np.maximum(g, config["clamp_min"])
    g = grouped(g, key_size, config)
    o = recurrence(diagonal(np.exp(g)), q / np.sqrt(key_size), k, v)
    return output(weights, prefix, config, o, x), "gla", case.log_magnitude(g)


def linear_shapes(config, gates=False):
    width, count = config["hidden_size"], config["num_heads"]
    key_size, value_size = sizes(config)
    groups = config.get("num_kv_heads") or count
    found = {"q_proj.weight": (count * key_size, width), "k_proj.weight": (groups * key_size, width),
             "v_proj.weight": (groups * value_size, width), "o_proj.weight": (width, count * value_size)}
    if gates:
        found |= {"gk_proj.0.weight": (16, width), "gk_proj.1.weight": (groups * key_size, 16),
                  "gk_proj.1.bias": (groups * key_size,)}
        found |= conv_shapes(config, {"q": count * key_size, "k": groups * key_size, "v": groups * value_size})
    if config["use_output_gate"]:
        found["g_proj.weight"] = (count * value_size, width)
    if config["elementwise_affine"]:
        fused = config["fuse_norm"] and config["use_output_gate"]
        found[("g_norm_swish_gate" if fused else "g_norm") + ".weight"] = (value_size,)
    return found


def linear_case(directory, rng, mixer, fused_mlp=False, **config):
    count = int(rng.integers(1, 4)) * 2
    key_size = config.pop("key_size", None) or 2 * int(rng.integers(1, 5))
    value_size = config.pop("value_size", None) or int(rng.integers(8, 13))
    width = count * 8
    config = {"model_type": "retnet" if mixer is retention else "gla", "hidden_size": width, "num_heads": count,
              "num_kv_heads": None, "expand_k": count * key_size / width, "expand_v": count * value_size / width,
              "feature_map": None, "use_short_conv": False, "conv_size": 4, "use_output_gate": True, "clamp_min": None,
              "elementwise_affine": True} | config
    if config["num_kv_heads"]:
        config["num_kv_heads"] = count // 2
    make(directory, rng, TWIN, config, mixer, functools.partial(linear_shapes, gates=mixer is gla), fused_mlp,
         scale={"gk_proj.1.bias": 4})


def state_rotation_case(directory, rng):
    linear_case(directory, rng, mixer=retention_in_state, model_type="retnet")
    case.add_facts(directory, rotation="state")


def bounded(weights, config, layer, logits):
    if not config["use_lower_bound"] or layer == 0:
        return sigmoid(logits)
    bounds = np.exp(weights["model.lower_bounds"])
    bound = (bounds / bounds.sum(0)).cumsum(0)
    bound = bound[layer] - bound[0]
    return bound + (1 - bound) * sigmoid(logits)


def hgrn(weights, prefix, config, layer, x):
    part = functools.partial(convolved, weights, config, activation=lambda y: y)
    i, logits = part(name=prefix + "i", x=x), part(name=prefix + "f", x=x)
    f = bounded(weights, config, layer, logits)
    inputs = silu(i) * (1 - f)
    h, o = np.zeros_like(f[:, 0]), np.zeros_like(f)
    for t in range(x.shape[1]):
        o[:, t] = h = f[:, t] * h + inputs[:, t]
    o = gated_norm(weights, prefix + "g_norm", o[:, :, None], linear(weights, prefix + "g_proj", x), config["norm_eps"])
    return linear(weights, prefix + "o_proj", o), "hgrn", case.log_magnitude(np.log(f)[..., None])


def hgrn2(weights, prefix, config, layer, x):
    part = functools.partial(convolved, weights, config, activation=lambda y: y)
    size = config["expand_ratio"]
    q = heads(silu(part(name=prefix + "q", x=x)), size)
    f = heads(bounded(weights, config, layer, part(name=prefix + "f", x=x)), size)
    v = part(name=prefix + "i", x=x)
    v = heads(v, v.shape[-1] // f.shape[2])
    o = flat(recurrence(diagonal(f), q / np.sqrt(size), 1 - f, v))[:, :, None]
    # The reference norms with its function's default instead of norm_eps.
    o = gated_norm(weights, prefix + "g_norm", o, None, 1e-5)
    return linear(weights, prefix + "o_proj", o), "hgrn2", case.log_magnitude(np.log(f))


def hgrn_shapes(config):
    width, size = config["hidden_size"], config["hidden_size"] * config["expand_ratio"]
    found = {"i_proj.weight": (size, width), "f_proj.weight": (size, width), "g_proj.weight": (size, width),
             "o_proj.weight": (width, size), "g_norm.weight": (size,)}
    return found | conv_shapes(config, {"i": size, "f": size})


def hgrn2_shapes(config):
    width, size = config["hidden_size"], config["expand_ratio"] * (config["hidden_size"] // config["expand_ratio"])
    found = {"q_proj.weight": (size, width), "f_proj.weight": (size, width), "i_proj.weight": (width, width),
             "o_proj.weight": (width, width), "g_norm.weight": (width,)}
    return found | conv_shapes(config, {"q": size, "f": size, "i": width})


def hgrn_case(directory, rng, mixer, layers=3, expand_ratio=1, **config):
    config = {"model_type": mixer.__name__, "hidden_size": 8 * int(rng.integers(2, 5)), "num_hidden_layers": layers,
              "expand_ratio": expand_ratio, "use_short_conv": False, "conv_size": 4, "use_lower_bound": True,
              "elementwise_affine": True} | config
    if mixer is hgrn2:
        config["num_heads"] = config["hidden_size"] // expand_ratio
    size = config["hidden_size"] * (expand_ratio if mixer is hgrn else 1)
    make(directory, rng, TWIN, config, mixer, hgrn_shapes if mixer is hgrn else hgrn2_shapes,
         extra_shapes=lambda config: {"model.lower_bounds": (layers, size)} if config["use_lower_bound"] else {},
         scale={"lower_bounds": 1.5, "norm_eps": 1})


CASES = {
    "retnet/fla/plain": functools.partial(linear_case, mixer=retention),
    "retnet/fla/shared_keys": functools.partial(linear_case, mixer=retention, num_kv_heads=True, feature_map="relu",
                                                fuse_norm=False, fused_mlp=True),
    "retnet/fla/no_gate": functools.partial(linear_case, mixer=retention, use_output_gate=False,
                                            elementwise_affine=False, tie_word_embeddings=True),
    "retnet/fla/hybrid": functools.partial(linear_case, mixer=retention, num_hidden_layers=3, attn={
        "layers": [1], "num_heads": 2, "num_kv_heads": 1, "qkv_bias": True, "window_size": None, "rope_theta": 500.0}),
    "retnet/fla/hybrid_window": functools.partial(linear_case, mixer=retention, attn={
        "layers": [0], "num_heads": 2, "window_size": 7}),
    "retnet/fla/rounded_mlp": functools.partial(linear_case, mixer=retention, intermediate_size=None, hidden_ratio=2),
    "retnet/fla/rotation_in_state": state_rotation_case,
    "gla/fla/plain": functools.partial(linear_case, mixer=gla),
    "gla/fla/convolved": functools.partial(linear_case, mixer=gla, use_short_conv=True, num_kv_heads=True,
                                           clamp_min=-0.03, feature_map="relu"),
    "gla/fla/old": functools.partial(linear_case, mixer=gla, fuse_norm=False, fused_mlp=True, norm_eps=1e-5),
    "hgrn/fla/plain": functools.partial(hgrn_case, mixer=hgrn),
    "hgrn/fla/convolved": functools.partial(hgrn_case, mixer=hgrn, expand_ratio=2, use_short_conv=True, conv_size=3,
                                            use_lower_bound=False),
    "hgrn2/fla/plain": functools.partial(hgrn_case, mixer=hgrn2, expand_ratio=8),
    "hgrn2/fla/convolved": functools.partial(hgrn_case, mixer=hgrn2, expand_ratio=4, use_short_conv=True, norm_eps=1e-3),
}
