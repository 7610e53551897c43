"""RecurrentGemma: Hugging Face's layout against transformers in float32; the layout of its authors (google-deepmind/
recurrentgemma, torch) against a float64 NumPy Griffin, written one step at a time from arXiv 2402.19427 and that repository's
modules. The two projects differ in the local attention: a window of W is W steps there and W + 1 here.

held_to/deepmind_recurrentgemma.py compares it with the authors' repository at 2efa84d in float64, where that computes in float32,
too: logits with seeds 1 to 5 differ by 2.1e-15 of the largest at most."""

import functools
import math

import numpy as np
import torch
import transformers
from transformers.models.recurrent_gemma import modeling_recurrent_gemma

import case
import hugging_face
from mamba2 import sigmoid, softplus

TWIN = case.held_to("float64 NumPy Griffin, step by step (oracles/recurrent_gemma.py)",
                    "google-deepmind/recurrentgemma 2efa84d", "3e-15")


def make(directory, rng, *, types, window, steps=None, **settings):
    heads, layers = 4, len(types)
    steps = steps or int(rng.integers(20, 50))
    config = transformers.RecurrentGemmaConfig(
        vocab_size=50, hidden_size=4 * heads * int(rng.integers(1, 4)), intermediate_size=2 * int(rng.integers(10, 30)),
        num_hidden_layers=layers, num_attention_heads=heads, attention_window_size=window,
        block_types=[{"r": "recurrent", "a": "attention"}[kind] for kind in types], **settings)
    model = transformers.RecurrentGemmaForCausalLM(config)
    decays = []

    def keep(module, inputs):
        x = inputs[0].double().reshape(-1, module.num_attention_heads, module.block_width).transpose(0, 1)
        gate = torch.baddbmm(module.recurrent_gate_bias.double()[:, None], x, module.recurrent_gate_weight.double()).sigmoid()
        gate = gate.transpose(0, 1).reshape(inputs[0].shape)
        decays.append((-8 * gate * torch.nn.functional.softplus(module.recurrent_param.double())).numpy())

    for module in model.modules():
        if isinstance(module, modeling_recurrent_gemma.RecurrentGemmaRglru):
            module.register_forward_pre_hook(keep)
    sees = lambda _, count: torch.ones(count, count, dtype=torch.bool).tril().triu(1 - window)
    with hugging_face.recorded_attention(modeling_recurrent_gemma, sees) as scores:
        tokens, logits = hugging_face.run(directory, rng, model, steps)
    decays, scores = iter(decays), iter(scores)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions={
        f"layers.{layer}.{'attention' if kind == 'a' else 'rg-lru'}":
            case.softmax(next(scores)) if kind == "a" else case.log_magnitude(next(decays)[..., None])
        for layer, kind in enumerate(types)})


# --- the authors' layout ---


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (1 + scale)


def recurrent_block(w, x):
    """Returns the block's output and log λ [B,T,channels]."""
    batch, steps, _ = x.shape
    gate = gelu(x @ w["linear_y.weight"].T + w["linear_y.bias"])
    u = x @ w["linear_x.weight"].T + w["linear_x.bias"]
    taps = w["conv_1d.w"].shape[0]
    padded = np.concatenate([np.zeros((batch, taps - 1, u.shape[2])), u], axis=1)
    u = sum(padded[:, k:k + steps] * w["conv_1d.w"][k] for k in range(taps)) + w["conv_1d.b"]

    def blocks(name):
        heads = w[name + ".w"].shape[0]
        y = np.einsum("bthi,hij->bthj", u.reshape(batch, steps, heads, -1), w[name + ".w"]) + w[name + ".b"]
        return sigmoid(y.reshape(u.shape))

    log_decay = -8 * blocks("rg_lru.a_gate") * softplus(w["rg_lru.a_param"])
    gated = u * blocks("rg_lru.input_gate")
    h, states = np.zeros_like(u[:, 0]), []
    for t in range(steps):
        a = np.exp(log_decay[:, t])
        h = gated[:, t] if t == 0 else a * h + np.sqrt(1 - a * a) * gated[:, t]
        states.append(h)
    return (np.stack(states, axis=1) * gate) @ w["linear_out.weight"].T + w["linear_out.bias"], log_decay


def attention_block(w, x, window):
    """Returns the block's output and the log-sum-exps [B,H,T]."""
    batch, steps, width = x.shape
    size = w["proj_k.weight"].shape[0]
    heads = width // size
    half = size // 2
    angles = np.arange(steps)[:, None] / 10000.0 ** (np.arange(half // 2) * 2 / half)

    def rotate(y):  # [B,T,H,size]: the first half of it is turned
        first, second, rest = np.split(y, [half // 2, half], axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)

    q = rotate((x @ w["proj_q.weight"].T).reshape(batch, steps, heads, size))
    k = rotate((x @ w["proj_k.weight"].T).reshape(batch, steps, 1, size))[:, :, 0]
    v = x @ w["proj_v.weight"].T
    scores = np.einsum("bthd,bsd->bhts", q, k) / math.sqrt(size)
    past = np.arange(steps)[:, None] - np.arange(steps)[None, :]
    scores[..., (past < 0) | (past > window)] = -np.inf
    peak = scores.max(-1, keepdims=True)
    total = np.exp(scores - peak).sum(-1, keepdims=True)
    attended = np.einsum("bhts,bsd->bthd", np.exp(scores - peak) / total, v).reshape(batch, steps, width)
    return attended @ w["proj_final.weight"].T + w["proj_final.bias"], (peak + np.log(total))[..., 0]


def griffin(weights, tokens, types, window):
    embedding = weights["embedder.input_embedding"]
    width = embedding.shape[1]
    x = embedding[tokens] * float(torch.tensor(math.sqrt(width)).bfloat16())
    transitions = {}
    for layer, kind in enumerate(types):
        w = {key.removeprefix(f"blocks.{layer}."): value for key, value in weights.items()}
        inside = {key.split(".", 1)[1]: value for key, value in w.items()
                  if key.startswith(("recurrent_block.", "attention_block."))}
        normed = norm(x, w["temporal_pre_norm.scale"])
        if kind == "a":
            y, log_sum_exps = attention_block(inside, normed, window)
            transitions[f"layers.{layer}.attention"] = case.softmax(log_sum_exps)
        else:
            y, log_decay = recurrent_block(inside, normed)
            transitions[f"layers.{layer}.rg-lru"] = case.log_magnitude(log_decay[..., None])
        x = x + y
        normed = norm(x, w["channel_pre_norm.scale"])
        up = [normed @ w["mlp_block.ffw_up.w"][i] + w["mlp_block.ffw_up.b"][i] for i in range(2)]
        x = x + (gelu(up[0]) * up[1]) @ w["mlp_block.ffw_down.weight"].T + w["mlp_block.ffw_down.bias"]
    logits = norm(x, weights["final_norm.scale"]) @ embedding.T
    return np.tanh(logits / 30) * 30, transitions


def make_authors(directory, rng, *, types, window=2048):
    heads, size, taps, vocabulary = 3, 4 * int(rng.integers(1, 4)), 4, 48
    width, channels, hidden = heads * size, heads * int(rng.integers(3, 9)), int(rng.integers(20, 50))
    shapes = {"embedder.input_embedding": (vocabulary, width), "final_norm.scale": (width,)}
    for layer, kind in enumerate(types):
        block = {"temporal_pre_norm.scale": (width,), "channel_pre_norm.scale": (width,),
                 "mlp_block.ffw_up.w": (2, width, hidden), "mlp_block.ffw_up.b": (2, 1, 1, hidden),
                 "mlp_block.ffw_down.weight": (width, hidden), "mlp_block.ffw_down.bias": (width,)}
        if kind == "a":
            block.update({"attention_block.proj_q.weight": (width, width), "attention_block.proj_k.weight": (size, width),
                          "attention_block.proj_v.weight": (size, width), "attention_block.proj_final.weight": (width, width),
                          "attention_block.proj_final.bias": (width,)})
        else:
            part = channels // heads
            block.update({f"recurrent_block.{name}": shape for name, shape in {
                "linear_x.weight": (channels, width), "linear_x.bias": (channels,), "linear_y.weight": (channels, width),
                "linear_y.bias": (channels,), "linear_out.weight": (width, channels), "linear_out.bias": (width,),
                "conv_1d.w": (taps, channels), "conv_1d.b": (channels,), "rg_lru.a_param": (channels,),
                "rg_lru.input_gate.w": (heads, part, part), "rg_lru.input_gate.b": (heads, part),
                "rg_lru.a_gate.w": (heads, part, part), "rg_lru.a_gate.b": (heads, part)}.items()})
        shapes.update({f"blocks.{layer}.{name}": shape for name, shape in block.items()})
    weights = {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in shapes.items()}
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 50))))
    logits, transitions = griffin({key: value.astype(np.float64) for key, value in weights.items()}, tokens, types, window)
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, directory / "model.pt")
    case.write(directory, reference=TWIN, tokens=tokens, logits=logits, checkpoint="model.pt", dtypes=("float64", "float32"),
               transitions=transitions, settings={"attention_window_size": window} if window != 2048 else None)


CASES = {
    "recurrent-gemma/huggingface/window": functools.partial(make, types="rra", window=8, num_key_value_heads=1),
    "recurrent-gemma/huggingface/plain": functools.partial(make, types="rar", window=2048, num_key_value_heads=1, lru_width=24),
    "recurrent-gemma/huggingface/options": functools.partial(make, types="ar", window=5, num_key_value_heads=2, attention_bias=True,
                                                             logits_soft_cap=5.0, conv1d_width=3, tie_word_embeddings=False),
    "recurrent-gemma/huggingface/short": functools.partial(make, types="ra", window=2048, steps=3),
    "recurrent-gemma/deepmind/window": functools.partial(make_authors, types="rra", window=7),
    "recurrent-gemma/deepmind/plain": functools.partial(make_authors, types="ra"),
}
