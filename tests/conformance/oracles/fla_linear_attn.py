"""flash-linear-attention's linear attention against a float64 NumPy twin: the sum over all pairs of steps, with feature maps written from
the equations of arXiv 2006.16236, 2102.11174, 2103.13076 and 2402.04347 and the keys of fla/layers/linear_attn.py.

held_to/flash_linear_attention.py compares it with flash-linear-attention bc3b101, the models themselves in float64 with
naive_recurrent_linear_attn: logits with seeds 1 to 5 differ by 2.7e-14 of the largest at most."""

import functools

import numpy as np

import case
from fla_shell import *

TWIN = case.held_to("float64 NumPy twin (oracles/fla_linear_attn.py)", "flash-linear-attention bc3b101", "3e-14")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dpfp(x):
    both = np.concatenate([relu(x), -relu(x)], -1)
    size = both.shape[-1]
    # Feature (j, i) is the product of element i and the one j places before it, in a circle.
    return np.stack([both[..., i] * both[..., (i - j) % size] for j in range(1, 5) for i in range(size)], -1)


def feature_map(weights, name, kind, x):
    layer = lambda rest: linear(weights, name + rest, x)
    return {"elementwise_product": lambda: layer(".layer1") * layer(".layer2"), "t2r": lambda: relu(layer(".layer")),
            "hedgehog": lambda: softmax(np.concatenate([2 * layer(".layer"), -2 * layer(".layer")], -1)), "dpfp": lambda: dpfp(x),
            "elu": lambda: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))), "relu": lambda: relu(x), "identity": lambda: x}[kind]()


def linear_attn(weights, prefix, config, layer, x):
    count, groups = config["num_heads"], config["num_kv_heads"] or config["num_heads"]
    key_size, value_size = (int(config["hidden_size"] * config[name]) // count for name in ("expand_k", "expand_v"))
    q, k, v = (heads(linear(weights, f"{prefix}{name}_proj", x), size) for name, size in zip("qkv", (key_size, key_size, value_size)))
    q, k = (feature_map(weights, f"{prefix}feature_map_{name}", config["feature_map"], y) for name, y in zip("qk", (q, k)))
    q, k = (y / (y.sum(-1, keepdims=True) + 1e-4) if config[f"norm_{name}"] else y for name, y in zip("qk", (q, k)))
    k, v = (y.repeat(count // groups, axis=2) for y in (k, v))
    kernel = np.tril(np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1]))
    if config["norm_feature_map"]:
        total = kernel.sum(-1) + 1e-10
        kernel = kernel / total[..., None]
        transition = case.log_magnitude((np.log(total[..., :-1]) - np.log(total[..., 1:])).transpose(0, 2, 1)[..., None])
    else:
        transition = case.log_magnitude(np.zeros((count, 1)))
    o = gated_norm(weights, prefix + "norm", np.einsum("bhij,bjhd->bihd", kernel, v), None, config["norm_eps"])
    return linear(weights, prefix + "o_proj", o), "linear_attention", transition


def mixer_shapes(config):
    width, count, groups = config["hidden_size"], config["num_heads"], config["num_kv_heads"] or config["num_heads"]
    keys, values = (int(width * config[name]) for name in ("expand_k", "expand_v"))
    size, kind = keys // count, config["feature_map"]
    found = {"q_proj.weight": (keys, width), "k_proj.weight": (keys // count * groups, width),
             "v_proj.weight": (values // count * groups, width), "o_proj.weight": (width, values)}
    if config["elementwise_affine"]:
        found["norm.weight"] = (values // count,)
    for side in "qk":
        for layer in {"elementwise_product": ["layer1", "layer2"], "t2r": ["layer"], "hedgehog": ["layer"]}.get(kind, []):
            found[f"feature_map_{side}.{layer}.weight"] = (size, size)
            if kind != "t2r":
                found[f"feature_map_{side}.{layer}.bias"] = (size,)
    return found


def make_case(directory, rng, **config):
    count, key_size = 2 * int(rng.integers(1, 3)), int(rng.integers(3, 8))
    value_size = 8 * int(rng.integers(1, 3))  # the norm of a few values that nearly cancel makes float32 a matter of luck
    sizes = {"model_type": "linear_attn", "hidden_size": 32 * count, "num_heads": count, "num_kv_heads": None, "expand_k": key_size / 32,
             "expand_v": value_size / 32, "feature_map": "elementwise_product", "tie_feature_map_qk": False, "norm_q": False,
             "norm_k": False, "norm_feature_map": False, "elementwise_affine": True}
    make(directory, rng, TWIN, sizes | config, linear_attn, mixer_shapes)


CASES = {f"linear_attn/fla/{name}": functools.partial(make_case, **config) for name, config in {
    "product": {},
    "normalised_elu": {"feature_map": "elu", "norm_feature_map": True, "num_kv_heads": 2},
    "normalised_hedgehog": {"feature_map": "hedgehog", "norm_feature_map": True, "norm_q": True},
    "shares": {"feature_map": "elu", "norm_feature_map": True, "norm_q": True, "norm_k": True},
    "t2r": {"feature_map": "t2r", "norm_q": True, "num_kv_heads": 2},
    # Enough dimensions that hardly ever all of them are 0.
    "normalised_t2r": {"feature_map": "t2r", "norm_feature_map": True, "expand_k": 0.5, "norm_k": True},
    "dpfp": {"feature_map": "dpfp", "norm_k": False, "elementwise_affine": False},
    "relu": {"feature_map": "relu", "num_hidden_layers": 3, "attn": {"layers": [1], "num_heads": 2}},
    "identity": {"feature_map": "identity", "num_kv_heads": 1},
}.items()}
