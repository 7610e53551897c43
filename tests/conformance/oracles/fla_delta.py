"""DeltaNet, Gated DeltaNet and Kimi Delta Attention against float64 NumPy twins, step by step with every
Λ_i as a matrix, in flash-linear-attention's layout.

held_to/flash_linear_attention.py compares it with flash-linear-attention bc3b101, the models themselves in float64 with their
naive recurrences and reference functions: logits with seeds 1 to 5 differ by 1.6e-14 of the largest at most. With the kernels, in
float32 on Triton's interpreter, checked once by hand: by 2e-5."""

import functools

import numpy as np

import case
from fla_shell import *

TWIN = case.held_to("float64 NumPy twin, step by step (oracles/fla_delta.py)", "flash-linear-attention bc3b101", "2e-14")
ACTIVATIONS = {"silu": silu, "relu": relu, "elu": lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
               "identity": lambda x: x}


def projected(weights, config, prefix, x, key_size, value_size, activation=silu):
    part = functools.partial(convolved, weights, config)
    q, k = (heads(part(name=prefix + name, x=x, activation=activation), key_size) for name in "qk")
    return q, k, heads(part(name=prefix + "v", x=x), value_size)


def erased(beta, k):
    """I - β k kᵀ for beta [B,T,H] and k [B,T,H,K]."""
    return np.eye(k.shape[-1]) - beta[..., None, None] * outer(k, k)


def write(beta, v):
    return beta[..., None] * v


def delta_net(weights, prefix, config, layer, x):
    count = config["num_heads"]
    key_size, value_size = (int(config["hidden_size"] * config[name]) // count for name in ("expand_k", "expand_v"))
    q, k, v = projected(weights, config, prefix, x, key_size, value_size, ACTIVATIONS[config["qk_activation"]])
    q, k = (l2_norm(y) if config["qk_norm"] == "l2" else y / y.sum(-1, keepdims=True) for y in (q, k))
    beta = sigmoid(linear(weights, prefix + "b_proj", x)) if config["use_beta"] else np.ones(q.shape[:3])
    beta = beta * (2 if config["allow_neg_eigval"] else 1)
    matrices = erased(beta, k)
    o = recurrence(matrices, q / np.sqrt(key_size), k, write(beta, v))
    gate = linear(weights, prefix + "g_proj", x) if config["use_gate"] else None
    o = gated_norm(weights, prefix + "o_norm", o, gate, config["norm_eps"])
    return linear(weights, prefix + "o_proj", o), "delta_net", key_side(matrices, value_size)


def gate_sizes(config):
    value_heads = config.get("num_v_heads") or config["num_heads"]
    return value_heads, config["head_dim"], int(config["head_dim"] * config["expand_v"])


def log_alpha(weights, prefix, logits, config):
    value_heads = gate_sizes(config)[0]
    shifted = heads(logits + weights[prefix + "dt_bias"].reshape(-1), logits.shape[-1] // value_heads)
    rate = np.exp(weights[prefix + "A_log"].reshape(-1, 1))
    if config.get("lower_bound") is not None:
        return config["lower_bound"] * sigmoid(rate * shifted)
    return -rate * softplus(shifted)


def beta_of(weights, prefix, config, x):
    return sigmoid(linear(weights, prefix + "b_proj", x)) * (2 if config["allow_neg_eigval"] else 1)


def gated_deltanet(weights, prefix, config, layer, x):
    value_heads, key_size, value_size = gate_sizes(config)
    q, k, v = projected(weights, config, prefix, x, key_size, value_size)
    q, k = (l2_norm(y).repeat(value_heads // y.shape[2], axis=2) for y in (q, k))
    beta = beta_of(weights, prefix, config, x)
    alpha = np.exp(log_alpha(weights, prefix, linear(weights, prefix + "a_proj", x), config))
    matrices = alpha[..., None] * erased(beta, k)
    o = recurrence(matrices, q / np.sqrt(key_size), k, write(beta, v))
    gate = linear(weights, prefix + "g_proj", x) if config["use_gate"] else None
    o = gated_norm(weights, prefix + "o_norm", o, gate, config["norm_eps"])
    return linear(weights, prefix + "o_proj", o), "gated_delta_net", key_side(matrices, value_size)


def kda(weights, prefix, config, layer, x):
    value_heads, key_size, value_size = gate_sizes(config)
    q, k, v = projected(weights, config, prefix, x, key_size, value_size)
    q, k = (l2_norm(y).repeat(value_heads // y.shape[2], axis=2) for y in (q, k))
    beta = beta_of(weights, prefix, config, x)
    logits = linear(weights, prefix + "f_proj.1", linear(weights, prefix + "f_proj.0", x))
    matrices = erased(beta, k) @ diagonal(np.exp(log_alpha(weights, prefix, logits, config)))
    o = recurrence(matrices, q / np.sqrt(key_size), k, write(beta, v))
    gate = linear(weights, prefix + "g_proj.1", linear(weights, prefix + "g_proj.0", x))
    o = gated_norm(weights, prefix + "o_norm", o, gate, config["norm_eps"], sigmoid)
    return linear(weights, prefix + "o_proj", o), "kda", key_side(matrices, value_size)


def delta_net_shapes(config):
    width, count = config["hidden_size"], config["num_heads"]
    keys, values = (int(width * config[name]) for name in ("expand_k", "expand_v"))
    found = {"q_proj.weight": (keys, width), "k_proj.weight": (keys, width), "v_proj.weight": (values, width),
             "o_proj.weight": (width, values), "o_norm.weight": (values // count,)}
    if config["use_beta"]:
        found["b_proj.weight"] = (count, width)
    if config["use_gate"]:
        found["g_proj.weight"] = (values, width)
    return found | conv_shapes(config, {"q": keys, "k": keys, "v": values})


def gated_shapes(config, writes=1):
    width, (value_heads, key_size, value_size) = config["hidden_size"], gate_sizes(config)
    keys, values = config["num_heads"] * key_size, value_heads * value_size
    found = {"q_proj.weight": (keys, width), "k_proj.weight": (writes * keys, width),
             "v_proj.weight": (writes * values, width), "b_proj.weight": (writes * value_heads, width),
             "o_proj.weight": (width, values), "o_norm.weight": (value_size,)}
    return found | conv_shapes(config, {"q": keys, "k": writes * keys, "v": writes * values})


def gated_deltanet_shapes(config):
    value_heads, _, value_size = gate_sizes(config)
    found = gated_shapes(config) | {"a_proj.weight": (value_heads, config["hidden_size"]), "A_log": (value_heads,),
                                    "dt_bias": (value_heads,)}
    return found | ({"g_proj.weight": (value_heads * value_size, config["hidden_size"])} if config["use_gate"] else {})


def kda_shapes(config, a_log=lambda heads: (heads,)):
    width, (value_heads, key_size, value_size) = config["hidden_size"], gate_sizes(config)
    return gated_shapes(config) | {
        "f_proj.0.weight": (value_size, width), "f_proj.1.weight": (value_heads * key_size, value_size),
        "A_log": a_log(value_heads), "dt_bias": (value_heads * key_size,), "g_proj.0.weight": (value_size, width),
        "g_proj.1.weight": (value_heads * value_size, value_size), "g_proj.1.bias": (value_heads * value_size,)}


def delta_case(directory, rng, mixer, mixer_shapes, **config):
    count, key_size = int(rng.integers(1, 4)), 2 * int(rng.integers(2, 5))
    # Eight values or more: the norm of a few that nearly cancel would make float32 a matter of luck.
    value_size = key_size * int(rng.integers(2, 4))
    if mixer is delta_net:
        sizes = {"hidden_size": 32 * count, "expand_k": key_size / 32, "expand_v": value_size / 32, "use_beta": True,
                 "use_gate": False, "qk_norm": "l2", "qk_activation": "silu", "use_output_norm": True}
    else:
        sizes = {"hidden_size": 24, "head_dim": key_size, "expand_v": value_size / key_size, "use_gate": True,
                 "use_output_gate": True}
    config = sizes | {"model_type": mixer.__name__, "num_heads": count, "use_short_conv": True, "conv_size": 4,
                      "allow_neg_eigval": False} | config
    if config.get("num_v_heads"):
        config["num_v_heads"] = 2 * count
    make(directory, rng, TWIN, config, mixer, mixer_shapes, scale={"A_log": 1, "dt_bias": 1})


def cases(mixer, mixer_shapes, **variants):
    name = mixer.__name__
    return {f"{name}/fla/{variant}": functools.partial(delta_case, mixer=mixer, mixer_shapes=mixer_shapes, **config)
            for variant, config in variants.items()}


CASES = {
    **cases(delta_net, delta_net_shapes, plain={}, negative={"allow_neg_eigval": True, "use_gate": True},
            without_convolution={"use_short_conv": False, "qk_activation": "identity", "use_beta": False},
            sums={"qk_activation": "elu", "qk_norm": "sum", "conv_size": 3},
            hybrid={"num_hidden_layers": 3, "attn": {"layers": [0, 2], "num_heads": 2}}),
    **cases(gated_deltanet, gated_deltanet_shapes, plain={}, shared_keys={"num_v_heads": True, "allow_neg_eigval": True},
            without_convolution={"use_short_conv": False, "use_gate": False}),
    **cases(kda, kda_shapes, plain={}, shared_keys={"num_v_heads": True, "allow_neg_eigval": True},
            bounded={"safe_gate": True, "lower_bound": -5.0}),
    "kda/fla/wide_rates": functools.partial(delta_case, mixer=kda, mixer_shapes=functools.partial(
        kda_shapes, a_log=lambda heads: (1, 1, heads, 1))),
}
