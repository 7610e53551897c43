"""minGRU and minLSTM in the layout of lucidrains/minGRU-pytorch against a float64 NumPy model, written one step at a time from
arXiv 2410.01201 (appendix B) and that repository's keys. held_to/mingru_pytorch.py compares it with the repository itself at
38b26e1 in float64: logits with seeds 1 to 5 differ by 5.2e-15 of the largest at most."""

import functools

import numpy as np
import torch

import case
from mamba2 import double, gelu, linear, sigmoid, softplus

TWIN = case.held_to("float64 NumPy model, step by step (oracles/min_rnn.py)", "lucidrains/minGRU-pytorch 38b26e1", "1.2e-14")
EPS = {"float64": np.finfo(np.float64).eps, "float32": np.finfo(np.float32).eps}


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def mixer(weights, prefix, x):
    """Returns what is added to the residual stream, and log λ [B,T,channels]."""
    lstm = prefix + "to_hidden_and_f_i_gate.weight" in weights
    parts = np.split(linear(weights, prefix + ("to_hidden_and_f_i_gate" if lstm else "to_hidden_and_gate"), x),
                     3 if lstm else 2, axis=-1)
    candidate = np.where(parts[0] >= 0, parts[0] + 0.5, sigmoid(parts[0]))
    if lstm:
        forget, enter = sigmoid(parts[1]), sigmoid(parts[2])
        keep, take = forget / (forget + enter), enter / (forget + enter)
        log_decay = -softplus(softplus(-parts[1]) - softplus(-parts[2]))
    else:
        take = sigmoid(parts[1])
        keep, log_decay = 1 - take, -softplus(parts[1])
    h, states = np.zeros_like(x[:, 0, :1]), []
    for t in range(x.shape[1]):
        h = keep[:, t] * h + take[:, t] * candidate[:, t]
        states.append(h)
    y = np.stack(states, axis=1)
    return (linear(weights, prefix + "to_out", y) if prefix + "to_out.weight" in weights else y), log_decay


def model(weights, tokens, layers, eps):
    x = weights["token_emb.weight"][tokens]
    steps, decays = tokens.shape[1], []
    for layer in range(layers):
        prefix = f"layers.{layer}."
        if prefix + "0.net.0.weight" in weights:
            kernel = weights[prefix + "0.net.0.weight"][:, 0, :]
            taps = kernel.shape[1]
            padded = np.concatenate([np.zeros((x.shape[0], taps - 1, x.shape[2])), x], axis=1)
            mixed = sum(padded[:, k:k + steps] * kernel[:, k] for k in range(taps)) + weights[prefix + "0.net.0.bias"]
            x = x + mixed @ weights[prefix + "0.net.1.weight"][:, :, 0].T + weights[prefix + "0.net.1.bias"]
        y, log_decay = mixer(weights, prefix + "2.", rms_norm(x, weights[prefix + "1.weight"], eps))
        x = x + y
        inner = gelu(linear(weights, prefix + "4.0", rms_norm(x, weights[prefix + "3.weight"], eps)))
        x = x + linear(weights, prefix + "4.2", inner)
        decays.append(log_decay)
    return rms_norm(x, weights["norm.weight"], eps) @ weights["to_logits.weight"].T, decays


def make(directory, rng, family, *, expansion, taps=0, ff_mult=4, layers=2, dtype="float32"):
    """A .pt of the state dict, as the repository's users save it. torch's RMSNorm without an eps takes that of the type it
    computes in, so that a checkpoint has no numbers until it has a type: each case is compared in one."""
    width, vocabulary = 2 * int(rng.integers(6, 16)), 48
    channels, rows = int(width * expansion), {"min-gru": 2, "min-lstm": 3}[family]
    projection = {"min-gru": "to_hidden_and_gate", "min-lstm": "to_hidden_and_f_i_gate"}[family]
    shapes = {"token_emb.weight": (vocabulary, width), "norm.weight": (width,), "to_logits.weight": (vocabulary, width)}
    for layer in range(layers):
        prefix, inner = f"layers.{layer}.", int(width * ff_mult)
        shapes.update({prefix + "1.weight": (width,), prefix + f"2.{projection}.weight": (rows * channels, width),
                       prefix + "3.weight": (width,), prefix + "4.0.weight": (inner, width), prefix + "4.0.bias": (inner,),
                       prefix + "4.2.weight": (width, inner), prefix + "4.2.bias": (width,)})
        if expansion != 1:
            shapes[prefix + "2.to_out.weight"] = (width, channels)
        if taps:
            shapes.update({prefix + "0.net.0.weight": (width, 1, taps), prefix + "0.net.0.bias": (width,),
                           prefix + "0.net.1.weight": (width, width, 1), prefix + "0.net.1.bias": (width,)})
    weights = {key: rng.normal(float(len(shape) == 1 and key.endswith("weight")), 0.3, shape).astype(np.float32)
               for key, shape in shapes.items()}
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    logits, decays = model(double(weights), tokens, layers, EPS[dtype])
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, directory / "model.pt")
    case.write(directory, reference=TWIN, tokens=tokens, logits=logits, checkpoint="model.pt", dtypes=(dtype,),
               transitions={f"layers.{layer}.{family}": case.log_magnitude(decay[..., None])
                            for layer, decay in enumerate(decays)})


CASES = {
    "min-gru/lucidrains/plain": functools.partial(make, family="min-gru", expansion=1.5, dtype="float64"),
    "min-gru/lucidrains/convolution": functools.partial(make, family="min-gru", expansion=1, taps=3, ff_mult=2),
    "min-lstm/lucidrains/plain": functools.partial(make, family="min-lstm", expansion=1.5, dtype="float64"),
    "min-lstm/lucidrains/convolution": functools.partial(make, family="min-lstm", expansion=1, taps=4, layers=3),
}
