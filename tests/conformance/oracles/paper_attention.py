"""The attention models of arXiv 2510.09379 (layout paper) and of arXiv 2405.15731 on long sequences (ssm-benchmark) against
a float64 NumPy twin, written from the papers' equations and the keys of their authors' checkpoints: every sum over the
past is written out, nothing is recurrent.

held_to/eigenvalue_paper.py compares the paper's cases with the authors' own modules in float64
(IntelligentControlSystems/Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254): logits with seeds 1 to 5 within
3.8e-15 of the largest. held_to/ssm_benchmark.py, the cases of ssm-benchmark's layout with jsie7/ssm-benchmark 3c4337f the same
way: with seeds 1 to 5 within 7.9e-15.
"""

import functools
import math

import numpy as np
import torch

import case

NAME = "float64 NumPy twin (oracles/paper_attention.py)"
REFERENCES = {"paper": case.held_to(NAME, "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254", "4e-15"),
              "ssm-benchmark": case.held_to(NAME, "jsie7/ssm-benchmark 3c4337f", "8e-15")}


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[name + ".weight"] + weights[name + ".bias"]


def affine(x, weights, name):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softplus(x):
    """PyTorch's, which is x itself above 20."""
    return np.where(x > 20, x, np.logaddexp(0, np.minimum(x, 20)))


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


# log η of a learned normaliser: exp(f(a)) in the later paper, f(a) in the earlier one.
LOG_NORMALISER = {
    "paper": {"exp": np.exp, "softplus": softplus, "sigmoid": sigmoid, "elu": elu},
    "earlier": {"exp": lambda a: a, "softplus": lambda a: np.log(softplus(a)), "sigmoid": lambda a: -softplus(-a)},
}


def attention(x, weights, prefix, kind, layout, heads, norm):
    """Returns the projected output and a site's expectations; x is normed already."""
    width, steps = x.shape[2], x.shape[1]
    if layout == "paper":
        fused = affine(x, weights, prefix + ("Wvqkn" if kind == "norm" else "Wqkv"))
        n = fused[..., -heads:] if kind == "norm" else None
        channels = fused[..., :-heads] if kind == "norm" else fused  # [v|q|k] or [q|k|v]
        if prefix + "conv1d.weight" in weights:
            kernel, bias = weights[prefix + "conv1d.weight"], weights[prefix + "conv1d.bias"]
            rows = kernel.shape[0]
            partial = rows < channels.shape[-1]
            first = channels.shape[-1] - rows if partial and kind == "norm" else 0
            mixed = causal_conv(channels[..., first:first + rows], kernel, bias)
            channels = np.concatenate([channels[..., :first], mixed * sigmoid(mixed), channels[..., first + rows:]], -1)
        d_qk = (channels.shape[-1] - width) // 2
        v, qk = (channels[..., :width], channels[..., width:]) if kind == "norm" else (channels[..., 2 * d_qk:],
                                                                                       channels[..., :2 * d_qk])
    else:
        qk, v = affine(x, weights, prefix + "Wqk"), affine(x, weights, prefix + "Wv")
        n = affine(x, weights, prefix + "Wn") if kind == "norm" else None
        d_qk = qk.shape[-1] // 2
    d, d_v = d_qk // heads, width // heads
    q, k = qk[..., :d_qk].reshape(*x.shape[:2], heads, d), qk[..., d_qk:].reshape(*x.shape[:2], heads, d)
    v = v.reshape(*x.shape[:2], heads, d_v)
    future = np.triu(np.ones((steps, steps), bool), 1)
    if kind == "softmax":
        scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(d)
        scores[..., future] = -np.inf
        peak = scores.max(-1, keepdims=True)
        kernel = np.exp(scores - peak)
        total = kernel.sum(-1, keepdims=True)
        shares = kernel / total
        site = case.softmax((peak + np.log(total))[..., 0])
    else:
        if kind == "linear" or norm["approx_fn"] == "elu":
            q, k = elu(q) + 1, elu(k) + 1
        if kind == "norm" and norm["scale_B"]:
            k = k / math.sqrt(d)
        kernel = np.einsum("bthd,bshd->bhts", q, k)
        kernel[..., future] = 0
        if kind == "linear":
            log_eta = np.log(kernel.sum(-1))
        else:
            a = n + weights[prefix + "inner_attn.offset"] if prefix + "inner_attn.offset" in weights else n
            log_eta = LOG_NORMALISER["paper" if layout == "paper" else "earlier"][norm["norm_fn"]](a).transpose(0, 2, 1)
        shares = kernel * np.exp(-log_eta)[..., None]
        site = case.log_magnitude((log_eta[..., :-1] - log_eta[..., 1:]).transpose(0, 2, 1)[..., None])
    attended = np.einsum("bhts,bshd->bthd", shares, v).reshape(x.shape)
    return affine(attended, weights, prefix + "out_proj"), site


def departing(x, result, weights, layer, kind, heads, norm, departures):
    """A site's expectations where the released analysis departs from the model: x and result are the block's."""
    source = result if "E1" in departures else x
    if "E2" not in departures:
        source = layer_norm(source, weights, layer + "norm")
    prefix, steps, width = layer + "attention.", x.shape[1], x.shape[2]
    fused = affine(source, weights, prefix + ("Wvqkn" if kind == "norm" else "Wqkv"))
    if kind == "norm":
        a = fused[..., -heads:] + weights.get(prefix + "inner_attn.offset", 0)
        factor = np.exp(-LOG_NORMALISER["paper"][norm["norm_fn"]](a))
        if "E7" in departures:
            factor[factor == 0] = 2e-23
        return case.log_magnitude(np.log(factor[:, 1:] / factor[:, :-1])[..., None])
    qk = fused[..., :-width]
    if prefix + "conv1d.weight" in weights and "E5" not in departures:
        mixed = causal_conv(qk, weights[prefix + "conv1d.weight"][:qk.shape[-1]], weights[prefix + "conv1d.bias"][:qk.shape[-1]])
        qk = mixed * sigmoid(mixed)
    q, k = (part.reshape(*x.shape[:2], heads, -1) for part in np.split(qk, 2, -1))
    if kind == "linear":
        q, k = elu(q) + 1, elu(k) + 1
    scores = np.einsum("bthd,bshd->bhts", q, k)
    future = np.triu(np.ones((steps, steps), bool), 1)
    if kind == "linear":
        scores[..., future] = 0
        total = scores.sum(-1)
        if "E7" in departures:
            total[total == 0] = 2e-23
        return case.log_magnitude(np.log(total[..., :-1] / total[..., 1:]).transpose(0, 2, 1)[..., None])
    if "E3" not in departures:
        scores = scores / math.sqrt(q.shape[-1])
    scores[..., future] = 0 if "E4" in departures else -np.inf
    peak = scores.max(-1, keepdims=True)
    shifted = np.where(future, 0 if "E4" in departures else -np.inf, scores - peak)
    return case.softmax(peak[..., 0] + np.log(np.exp(shifted).sum(-1)))


def network(x, weights, prefix, kind):
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


SITES = {"softmax": "attention", "linear": "linear_attention", "norm": "norm_attention"}


def blocks(x, weights, layers, kind, layout, heads, norm, mixer_kind, departures):
    sites = {}
    for layer in range(layers):
        prefix = f"layers.{layer}."
        attended, site = attention(layer_norm(x, weights, prefix + "norm"), weights, prefix + "attention.", kind, layout,
                                   heads, norm)
        sites[f"layers.{layer}.{SITES[kind]}"] = site
        summed = x * weights.get(prefix + "lambd", 1.0) + attended
        result = layer_norm(summed, weights, prefix + "norm")
        if mixer_kind != "none":
            part = "mixer." if layout == "paper" else "mlp."
            result = summed + network(result, weights, prefix + part, mixer_kind)
        if prefix + "Wz.weight" in weights:
            opened = affine(x, weights, prefix + "Wz")
            result = result * opened * sigmoid(opened)
        if departures:
            sites[f"layers.{layer}.{SITES[kind]}"] = departing(x, result, weights, prefix, kind, heads, norm, departures)
        x = result
    return layer_norm(x, weights, "norm"), sites


def pool(x, pooling):
    return {"none": lambda: x, "mean": lambda: x.mean(1, keepdims=True), "max": lambda: x.max(1, keepdims=True),
            "sum": lambda: x.sum(1, keepdims=True), "cls": lambda: x[:, :1]}[pooling]()


def shapes_of(rng, kind, layout, heads, width, d_qk, layers, mixer_kind, *, gate, taps, partial, positions, channels,
              vocabulary, classes, classifier, offset):
    shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    if channels:
        shapes.update({"encoder.weight": (width, channels), "encoder.bias": (width,)})
    else:
        shapes["encoder.word_embeddings.weight"] = (vocabulary, width)
        if positions:
            shapes["encoder.position_embeddings.weight"] = (positions, width)
    inner = int(rng.integers(20, 60))
    linears = {}
    if classifier:
        linears.update({"classifier.encoder": (inner, width), "classifier.decoder": (classes, inner)})
    elif layout == "paper":
        shapes["decoder.weight"] = (classes, width)
    else:
        linears["decoder"] = (classes, width)
    networks = {"none": {}, "mlp": {"encoder": (inner, width), "decoder": (width, inner)}, "glu": {"linear": (2 * width, width)},
                "hybrid": {"encoder": (2 * width, width), "decoder": (width, 2 * width)}}
    for layer in range(layers):
        prefix = f"layers.{layer}."
        part = prefix + "attention."
        if layout == "paper":
            linears[part + ("Wvqkn" if kind == "norm" else "Wqkv")] = (2 * d_qk + width + (heads if kind == "norm" else 0), width)
        else:
            linears.update({part + "Wqk": (2 * d_qk, width), part + "Wv": (width, width)})
            if kind == "norm":
                linears[part + "Wn"] = (heads, width)
            shapes[prefix + "lambd"] = (1,)
        linears[part + "out_proj"] = (width, width)
        for name, shape in networks[mixer_kind].items():
            linears[prefix + ("mixer." if layout == "paper" else "mlp.") + name] = shape
        if gate:
            linears[prefix + "Wz"] = (width, width)
        if taps:
            rows = 2 * d_qk + (0 if partial else width)
            shapes.update({part + "conv1d.weight": (rows, 1, taps), part + "conv1d.bias": (rows,)})
        if kind == "norm" and offset:
            shapes[part + "inner_attn.offset"] = (heads,)
        if mixer_kind == "hybrid":
            shapes[prefix + "mixer.alpha"] = (1,)
        shapes.update({prefix + "norm.weight": (width,), prefix + "norm.bias": (width,)})
    for name, shape in linears.items():
        shapes[name + ".weight"] = shape
        shapes[name + ".bias"] = shape[:1]
    return shapes


def make(directory, rng, *, kind, layout="paper", heads, d_qk, d_v, mixer="mlp", layers=2, gate=False, taps=0, partial=False,
         positions=0, channels=0, pooling=None, offset=True, norm=None, tolerances=None, departures=None):
    """A .pth of a bare state dict, as the authors save them; what it does not tell is passed as settings."""
    width, d_qk, vocabulary = heads * d_v, heads * d_qk, 48
    classes = 7 if pooling else vocabulary
    shapes = shapes_of(rng, kind, layout, heads, width, d_qk, layers, mixer, gate=gate, taps=taps, partial=partial,
                       positions=positions, channels=channels, vocabulary=vocabulary, classes=classes,
                       classifier=pooling is not None, offset=offset and layout == "paper")
    stored = {key: rng.normal(float(key.endswith("norm.weight")), 0.4, shape).astype(np.float32)
              for key, shape in shapes.items()}
    if departures is not None and kind == "norm":  # E2 would take e^{-f} below the smallest float32
        for key in (key for key in stored if "Wvqkn" in key):
            stored[key][-heads:] *= np.float32(0.05)
    torch.save({key: torch.from_numpy(value) for key, value in stored.items()}, directory / "transformer.pth")
    weights = {key: value.astype(np.float64) for key, value in stored.items()}
    steps = min(int(rng.integers(18, 60)), positions or 60)
    if channels:
        inputs = rng.normal(0, 1, (2, steps, channels)).astype(np.float32)
        x = affine(inputs.astype(np.float64), weights, "encoder")
    else:
        inputs = rng.integers(0, vocabulary, (2, steps))
        x = weights["encoder.word_embeddings.weight"][inputs]
        if positions:
            x = x + weights["encoder.position_embeddings.weight"][:steps]
    x, sites = blocks(x, weights, layers, kind, layout, heads, norm, mixer,
                      case.ALL_DEPARTURES if departures == [] else departures)
    if pooling:
        hidden = np.maximum(affine(pool(x, pooling), weights, "classifier.encoder"), 0)
        logits = affine(hidden, weights, "classifier.decoder")
    else:
        logits = affine(x, weights, "decoder")
    settings = {"num_heads": heads, "attention_fn": {"softmax": "sm", "linear": "lin", "norm": "norm"}[kind] + "-attention"}
    if norm:
        settings.update(norm if layout == "paper" else {"norm_fn": norm["norm_fn"]})
    if pooling:
        settings["pooling"] = pooling
    case.write(directory, reference=REFERENCES[layout], tokens=inputs, logits=logits, transitions=sites,
               dtypes=("float64", "float32"), checkpoint="transformer.pth", settings=settings, tolerances=tolerances, departures=departures)


NORM = {"approx_fn": "elu", "scale_B": True}
softmax, linear = functools.partial(make, kind="softmax"), functools.partial(make, kind="linear")
norm = functools.partial(make, kind="norm")

CASES = {
    "softmax-attention/paper/mlp": functools.partial(softmax, heads=4, d_qk=3, d_v=6, layers=3, positions=64),
    "softmax-attention/paper/no_mixer": functools.partial(softmax, heads=2, d_qk=12, d_v=12, mixer="none", positions=64),
    "softmax-attention/paper/glu_gate": functools.partial(softmax, heads=3, d_qk=12, d_v=4, mixer="glu", gate=True,
                                                          positions=64),
    "softmax-attention/paper/hybrid_conv": functools.partial(softmax, heads=2, d_qk=4, d_v=12, mixer="hybrid", taps=4),
    "softmax-attention/paper/partial_conv_gate": functools.partial(softmax, heads=4, d_qk=4, d_v=4, mixer="none", gate=True,
                                                                   taps=3, partial=True, positions=21),
    "softmax-attention/paper/max_pooling": functools.partial(softmax, heads=2, d_qk=5, d_v=8, pooling="max", positions=64),
    "softmax-attention/paper/compat_all": functools.partial(softmax, heads=2, d_qk=4, d_v=6, taps=4, gate=True, departures=[]),
    "softmax-attention/paper/compat_e1_e4": functools.partial(softmax, heads=3, d_qk=4, d_v=4, mixer="none", positions=64,
                                                              departures=["E1", "E4"]),
    "softmax-attention/paper/compat_e2_e3_e6": functools.partial(softmax, heads=2, d_qk=5, d_v=8, taps=3, partial=True,
                                                                 departures=["E2", "E3", "E6"]),
    "softmax-attention/paper/compat_e5": functools.partial(softmax, heads=2, d_qk=4, d_v=8, taps=4, departures=["E5"]),
    "softmax-attention/ssm-benchmark/mlp": functools.partial(softmax, layout="ssm-benchmark", heads=3, d_qk=4, d_v=6,
                                                             positions=64),
    "linear-attention/paper/mlp": functools.partial(linear, heads=4, d_qk=3, d_v=6, positions=64),
    "linear-attention/paper/conv_gate": functools.partial(linear, heads=2, d_qk=6, d_v=8, mixer="none", gate=True, taps=4),
    "linear-attention/paper/partial_conv_mean": functools.partial(linear, heads=3, d_qk=4, d_v=4, mixer="hybrid", taps=3,
                                                                  partial=True, pooling="mean"),
    "linear-attention/paper/compat_all": functools.partial(linear, heads=2, d_qk=6, d_v=8, taps=4, departures=[]),
    "linear-attention/paper/compat_e1_e7_e9": functools.partial(linear, heads=2, d_qk=4, d_v=6, taps=3, partial=True,
                                                                mixer="none", departures=["E1", "E7", "E9"]),
    "linear-attention/paper/compat_e2_e5": functools.partial(linear, heads=3, d_qk=4, d_v=4, taps=4, gate=True,
                                                             departures=["E2", "E5"]),
    "linear-attention/ssm-benchmark/sum_pooling": functools.partial(linear, layout="ssm-benchmark", heads=2, d_qk=5, d_v=6,
                                                                    pooling="sum"),
    "norm-attention/paper/softplus_conv": functools.partial(norm, heads=4, d_qk=4, d_v=6, taps=4, mixer="none",
                                                            norm=NORM | {"norm_fn": "softplus"}),
    "norm-attention/paper/exp_real_inputs": functools.partial(norm, heads=2, d_qk=6, d_v=6, taps=4, channels=2, pooling="mean",
                                                              norm={"norm_fn": "exp", "approx_fn": "none", "scale_B": True},
                                                              tolerances={"eigenvalues": {
                                                                  "float32": 1e-4, "reason":
                                                                  "log λ is a difference of e^a, which is off by e^a times a's own "
                                                                  "rounding"}}),
    "norm-attention/paper/sigmoid_partial_conv": functools.partial(norm, heads=3, d_qk=4, d_v=4, taps=3, partial=True,
                                                                   gate=True, mixer="glu", norm=NORM | {"norm_fn": "sigmoid"}),
    "norm-attention/paper/elu": functools.partial(norm, heads=2, d_qk=4, d_v=8, offset=False, pooling="cls",
                                                  norm={"norm_fn": "elu", "approx_fn": "none", "scale_B": False}),
    "norm-attention/paper/compat_all": functools.partial(norm, heads=4, d_qk=4, d_v=6, taps=4, norm=NORM | {"norm_fn": "softplus"},
                                                         departures=[]),
    "norm-attention/paper/compat_e1": functools.partial(norm, heads=2, d_qk=6, d_v=6, taps=4, channels=2, pooling="mean",
                                                        norm=NORM | {"norm_fn": "sigmoid"}, departures=["E1"]),
    "norm-attention/paper/compat_e2_e7": functools.partial(norm, heads=2, d_qk=4, d_v=8, offset=False, mixer="glu",
                                                           norm=NORM | {"norm_fn": "elu"}, departures=["E2", "E7"]),
    "norm-attention/ssm-benchmark/exp": functools.partial(norm, layout="ssm-benchmark", heads=4, d_qk=4, d_v=4,
                                                          norm={"norm_fn": "exp", "approx_fn": "none", "scale_B": False}),
    "norm-attention/ssm-benchmark/softplus": functools.partial(norm, layout="ssm-benchmark", heads=2, d_qk=6, d_v=6,
                                                               pooling="max", norm={"norm_fn": "softplus", "approx_fn": "none",
                                                                                    "scale_B": False}),
    "norm-attention/ssm-benchmark/sigmoid": functools.partial(norm, layout="ssm-benchmark", heads=3, d_qk=4, d_v=8, channels=1,
                                                              norm={"norm_fn": "sigmoid", "approx_fn": "none",
                                                                    "scale_B": False}),
}
