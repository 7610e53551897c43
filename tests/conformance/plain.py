"""Pieces of twins in plain float64 NumPy: written from the published equations, one step of time after the other, with
every Λ_i as an explicit matrix. Shapes: B batch, T steps, H heads, K and V sizes of a head's keys and values."""

import numpy as np

import case


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.where(x > 20, x, np.logaddexp(0, np.minimum(x, 20)))


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def relu(x):
    return np.maximum(x, 0)


def linear(weights, name, x):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight + bias


def heads(x, size):
    """[B,T,H·size] -> [B,T,H,size]."""
    return x.reshape(*x.shape[:-1], -1, size)


def flat(x):
    return x.reshape(*x.shape[:-2], -1)


def l2_norm(x, eps=1e-6):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps)


def shifted(x):
    """x_{t-1} at step t, zero at the first."""
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)


def convolution(x, kernel, bias=0):
    """Depthwise and causal; kernel [C,1,taps], its last tap on the present."""
    taps, steps = kernel.shape[2], x.shape[1]
    padded = np.concatenate([np.zeros((x.shape[0], taps - 1, x.shape[2])), x], axis=1)
    return sum(padded[:, k:k + steps] * kernel[:, 0, k] for k in range(taps)) + bias


def rotary(x, base=10000.0, size=None, interleaved=False):
    """Turns the first `size` dimensions of x [B,T,H,d], in halves or in neighbours."""
    size = size or x.shape[-1]
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    turned = x[..., :size]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else np.split(turned, 2, axis=-1)
    pair = a * cos - b * sin, b * cos + a * sin
    turned = np.stack(pair, -1).reshape(turned.shape) if interleaved else np.concatenate(pair, -1)
    return np.concatenate([turned, x[..., size:]], -1)


def attention(q, k, v, window=None):
    """Causal softmax attention [B,T,H,·], keys and values of fewer heads repeated; the output and log-sum-exps [B,H,T]."""
    shared = q.shape[2] // k.shape[2]
    k, v = k.repeat(shared, axis=2), v.repeat(shared, axis=2)
    scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1])
    age = np.arange(q.shape[1])[:, None] - np.arange(q.shape[1])
    scores = np.where((age < 0) | (age >= (window or q.shape[1])), -np.inf, scores)
    largest = scores.max(-1, keepdims=True)
    exponentials = np.exp(scores - largest)
    total = exponentials.sum(-1, keepdims=True)
    return np.einsum("bhij,bjhd->bihd", exponentials / total, v), (np.log(total) + largest)[..., 0]


def recurrence(matrices, q, k, v, bonus=None):
    """S_t = Λ_t S_{t-1} + k_t v_tᵀ and o_t = S_tᵀ q_t for matrices [B,T,H,K,K]; with a bonus [H,K],
    o_t = (S_{t-1} + diag(bonus) k_t v_tᵀ)ᵀ q_t."""
    o = np.zeros(v.shape)
    state = np.zeros((*v.shape[:1], *v.shape[2:3], k.shape[-1], v.shape[-1]))
    for t in range(v.shape[1]):
        added = k[:, t, :, :, None] * v[:, t, :, None, :]
        before, state = state, matrices[:, t] @ state + added
        o[:, t] = np.einsum("bhk,bhkv->bhv", q[:, t], state if bonus is None else before + bonus[..., None] * added)
    return o


def diagonal(values):
    """[...,K] -> [...,K,K]."""
    return values[..., None] * np.eye(values.shape[-1])


def outer(u, v):
    return u[..., :, None] * v[..., None, :]


def key_side(matrices, values):
    """What case.multiset takes of explicit Λ [B,T,H,K,K] that act on the keys' side of a state with `values` columns: each
    eigenvalue is shared by all of them."""
    eigenvalues, vectors = np.linalg.eig(matrices)
    return case.multiset(np.repeat(eigenvalues + 0j, values, -1), np.linalg.norm(matrices, 2, axis=(-2, -1)),
                         np.linalg.cond(vectors))


def draw(rng, shapes, scale=0.4):
    """Weights for shapes {key: shape}: float32 values as float64. Gains of norms around one, matrices as large as keeps
    activations of order one, and whatever `scale` has of a (key's end: standard deviation) instead."""
    special = scale if isinstance(scale, dict) else {}
    weights = {}
    for key, shape in shapes.items():
        values = rng.standard_normal(shape)
        ending = next((end for end in special if key.endswith(end)), None)
        if ending is not None:
            values = values * special[ending]
        elif "norm" in key and key.endswith(".weight"):
            values = 1 + 0.2 * values
        elif len(shape) == 2 and "embed" not in key:
            values = values * 1.2 / np.sqrt(shape[1])
        else:
            values = values * 0.5
        weights[key] = values.astype(np.float32).astype(np.float64)
    return weights
