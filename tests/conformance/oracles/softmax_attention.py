"""The softmax attention block of arXiv 2510.09379 against a float64 NumPy twin, written from the paper's description and the
keys of its authors' checkpoints."""

import functools
import math

import numpy as np
import torch

import case


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[name + ".weight"] + weights[name + ".bias"]


def affine(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def causal_conv(x, weight, bias):
    """x [B,T,C], weight [C,1,K]: the last tap on the present."""
    taps = weight.shape[2]
    result = np.zeros_like(x) + bias
    for t in range(x.shape[1]):
        for k in range(taps):
            source = t - (taps - 1) + k
            if source >= 0:
                result[:, t] += weight[:, 0, k] * x[:, source]
    return result


def attention(x, weights, prefix, heads, d_qk, conv_rows):
    """Returns the projected output and the log-sum-exps [B,H,T]."""
    width, steps = x.shape[2], x.shape[1]
    qkv = affine(x, weights, prefix + "attention.Wqkv")
    if conv_rows:
        mixed = causal_conv(qkv[..., :conv_rows], weights[prefix + "attention.conv1d.weight"],
                            weights[prefix + "attention.conv1d.bias"])
        qkv = np.concatenate([mixed * sigmoid(mixed), qkv[..., conv_rows:]], axis=-1)
    d, d_v = d_qk // heads, width // heads
    outputs, log_sum_exps = [], []
    for h in range(heads):
        q = qkv[..., h * d:(h + 1) * d]
        k = qkv[..., d_qk + h * d:d_qk + (h + 1) * d]
        v = qkv[..., 2 * d_qk + h * d_v:2 * d_qk + (h + 1) * d_v]
        scores = np.einsum("btd,bsd->bts", q, k) / math.sqrt(d)
        scores[:, np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
        peak = scores.max(-1, keepdims=True)
        weight = np.exp(scores - peak)
        total = weight.sum(-1, keepdims=True)
        outputs.append(weight / total @ v)
        log_sum_exps.append((peak + np.log(total))[..., 0])
    return affine(np.concatenate(outputs, -1), weights, prefix + "attention.out_proj"), np.stack(log_sum_exps, 1)


def mixer(x, weights, prefix, kind):
    if kind == "mlp":
        return affine(gelu(affine(x, weights, prefix + "encoder")), weights, prefix + "decoder")
    if kind == "glu":
        first, second = np.split(affine(x, weights, prefix + "linear"), 2, -1)
        return first * sigmoid(second)
    assert kind == "hybrid", kind
    hidden = affine(x, weights, prefix + "encoder")
    first, second = np.split(hidden, 2, -1)
    share = sigmoid(weights[prefix + "alpha"])
    return share * first * sigmoid(second) + (1 - share) * affine(gelu(hidden), weights, prefix + "decoder")


def make(directory, rng, *, heads, d_qk, d_v, mixer_kind, layers=2, gate=False, taps=0, partial=False, positions=64):
    """A .pth of a bare state dict, as the authors save them; the number of heads is passed as a setting."""
    width, d_qk, vocabulary = heads * d_v, heads * d_qk, 48
    conv_rows = 0 if taps == 0 else 2 * d_qk + (0 if partial else width)
    shapes = {"encoder.word_embeddings.weight": (vocabulary, width), "norm.weight": (width,), "norm.bias": (width,),
              "decoder.weight": (vocabulary, width)}
    if positions:
        shapes["encoder.position_embeddings.weight"] = (positions, width)
    inner = int(rng.integers(20, 60))
    networks = {"none": {}, "mlp": {"encoder": (inner, width), "decoder": (width, inner)}, "glu": {"linear": (2 * width, width)},
                "hybrid": {"encoder": (2 * width, width), "decoder": (width, 2 * width)}}
    for layer in range(layers):
        prefix = f"layers.{layer}."
        linears = {"attention.Wqkv": (2 * d_qk + width, width), "attention.out_proj": (width, width)}
        linears.update({"mixer." + name: shape for name, shape in networks[mixer_kind].items()})
        if gate:
            linears["Wz"] = (width, width)
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes.update({prefix + "norm.weight": (width,), prefix + "norm.bias": (width,)})
        if taps:
            shapes[prefix + "attention.conv1d.weight"] = (conv_rows, 1, taps)
            shapes[prefix + "attention.conv1d.bias"] = (conv_rows,)
        if mixer_kind == "hybrid":
            shapes[prefix + "mixer.alpha"] = (1,)
    stored = {key: rng.normal(float(key.endswith("norm.weight")), 0.4, shape).astype(np.float32)
              for key, shape in shapes.items()}
    torch.save({key: torch.from_numpy(value) for key, value in stored.items()}, directory / "transformer.pth")

    weights = {key: value.astype(np.float64) for key, value in stored.items()}
    tokens = rng.integers(0, vocabulary, (2, min(int(rng.integers(18, 60)), positions or 60)))
    x = weights["encoder.word_embeddings.weight"][tokens]
    if positions:
        x = x + weights["encoder.position_embeddings.weight"][:tokens.shape[1]]
    transitions = {}
    for layer in range(layers):
        prefix = f"layers.{layer}."
        attended, log_sum_exps = attention(layer_norm(x, weights, prefix + "norm"), weights, prefix, heads, d_qk, conv_rows)
        transitions[f"layers.{layer}.attention"] = case.softmax(log_sum_exps)
        summed = x + attended
        normed = layer_norm(summed, weights, prefix + "norm")
        result = normed if mixer_kind == "none" else summed + mixer(normed, weights, prefix + "mixer.", mixer_kind)
        if gate:
            opened = affine(x, weights, prefix + "Wz")
            result = result * opened * sigmoid(opened)
        x = result
    logits = layer_norm(x, weights, "norm") @ weights["decoder.weight"].T
    case.write(directory, reference="float64 NumPy twin (tests/conformance/oracles/softmax_attention.py)", tokens=tokens,
               logits=logits, transitions=transitions, dtypes=("float64", "float32"), checkpoint="transformer.pth",
               settings={"num_heads": heads})


CASES = {
    "softmax-attention/paper/mlp": functools.partial(make, heads=4, d_qk=3, d_v=6, mixer_kind="mlp", layers=3),
    "softmax-attention/paper/no_mixer": functools.partial(make, heads=2, d_qk=12, d_v=12, mixer_kind="none"),
    "softmax-attention/paper/glu_gate": functools.partial(make, heads=3, d_qk=12, d_v=4, mixer_kind="glu", gate=True),
    "softmax-attention/paper/hybrid_conv": functools.partial(make, heads=2, d_qk=4, d_v=12, mixer_kind="hybrid", taps=4,
                                                             positions=0),
    "softmax-attention/paper/partial_conv_gate": functools.partial(make, heads=4, d_qk=4, d_v=4, mixer_kind="none", gate=True,
                                                                   taps=3, partial=True, positions=21),
}
