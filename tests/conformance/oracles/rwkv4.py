"""RWKV-4: Hugging Face's against transformers itself in float64; RWKV-LM's layout against a float64 NumPy twin of arXiv
2305.13048, step by step, which is compared with transformers on every run.

held_to/rwkv_lm.py compares it with RWKV-LM 524481d, the RNN of RWKV-v4/src/model_run.py in float64: logits with seeds 1 to 5
differ by 1.5e-15 of the largest at most."""

import functools

import numpy as np
import torch
import transformers

import case
import hugging_face
from plain import *

TWIN = case.held_to("float64 NumPy twin, step by step (oracles/rwkv4.py)", "RWKV-LM 524481d", "3e-15")


def time_mix(p, x):
    """p: the layer's tensors by RWKV-LM's names. Returns the output and log λ [B,T-1,C] of gauge dsf."""
    before = shifted(x)
    k, v, r = (x * p["time_mix_" + letter].reshape(-1) + before * (1 - p["time_mix_" + letter].reshape(-1)) for letter in "kvr")
    k, v, r = k @ p["key.weight"].T, v @ p["value.weight"].T, sigmoid(r @ p["receptance.weight"].T)
    decay, first = np.exp(p["time_decay"]), p["time_first"]
    # Sums in true units: the cases' keys are small enough.
    a, b, y, sums = np.zeros_like(k[:, 0]), np.zeros_like(k[:, 0]), np.zeros_like(v), []
    for t in range(x.shape[1]):
        now = np.exp(first + k[:, t])
        y[:, t] = (a + now * v[:, t]) / (b + now)
        a = np.exp(-decay) * a + np.exp(k[:, t]) * v[:, t]
        b = np.exp(-decay) * b + np.exp(k[:, t])
        sums.append(b)
    sums = np.stack(sums, 1)
    log_lambda = np.log(np.exp(-decay) * sums[:, :-1] / sums[:, 1:])
    return (r * y) @ p["output.weight"].T, log_lambda


def channel_mix(p, x):
    before = shifted(x)
    k, r = (x * p["time_mix_" + letter].reshape(-1) + before * (1 - p["time_mix_" + letter].reshape(-1)) for letter in "kr")
    return sigmoid(r @ p["receptance.weight"].T) * (relu(k @ p["key.weight"].T) ** 2 @ p["value.weight"].T)


def forward(weights, layers, tokens, rescale_every=0):
    """weights: by RWKV-LM's names. Returns logits, every layer's log λ, and x before each layer and after the last."""
    norm = lambda name, x: layer_norm(x, weights[name + ".weight"], weights[name + ".bias"], 1e-5)
    part = lambda prefix: {key[len(prefix):]: w for key, w in weights.items() if key.startswith(prefix)}
    x = norm("blocks.0.ln0", weights["emb.weight"][tokens])
    transitions, inputs = {}, [x]
    for layer in range(layers):
        block = f"blocks.{layer}."
        scale = 2.0 ** -(layer // rescale_every) if rescale_every else 1
        out, log_lambda = time_mix(part(block + "att."), norm(block + "ln1", x))
        x = x + out * scale
        x = x + channel_mix(part(block + "ffn."), norm(block + "ln2", x)) * scale
        if rescale_every and (layer + 1) % rescale_every == 0:
            x = x / 2
        transitions[f"layers.{layer}.rwkv4"] = case.log_magnitude(log_lambda[..., None])
        inputs.append(x)
    return linear(weights, "head", norm("ln_out", x)), transitions, inputs


def shapes(layers, width, channels, vocabulary, hidden):
    found = {"emb.weight": (vocabulary, width), "blocks.0.ln0.weight": (width,), "blocks.0.ln0.bias": (width,)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        for norm in ("ln1", "ln2"):
            found |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        found |= {f"{block}att.time_mix_{letter}": (1, 1, width) for letter in "kvr"}
        found |= {f"{block}att.time_decay": (channels,), f"{block}att.time_first": (channels,)}
        found |= {f"{block}att.{name}.weight": (channels, width) for name in ("key", "value", "receptance")}
        found |= {f"{block}att.output.weight": (width, channels), f"{block}ffn.time_mix_k": (1, 1, width),
                  f"{block}ffn.time_mix_r": (1, 1, width), f"{block}ffn.key.weight": (hidden, width),
                  f"{block}ffn.receptance.weight": (width, width), f"{block}ffn.value.weight": (width, hidden)}
    return found | {"ln_out.weight": (width,), "ln_out.bias": (width,), "head.weight": (vocabulary, width)}


def drawn(rng, layers, channels=None):
    width = int(rng.integers(12, 33))
    sizes = dict(layers=layers, width=width, channels=channels or width, vocabulary=int(rng.integers(20, 50)),
                 hidden=int(rng.integers(10, 50)))
    weights = draw(rng, shapes(**sizes), scale={"time_decay": 2, "time_first": 1})
    for key in weights:
        if ".ln" in key and key.endswith(".weight"):
            weights[key] = (1 + weights[key]).astype(np.float32).astype(np.float64)
        if key.endswith("time_decay"):  # from steps that forget everything to ones that keep nearly all
            weights[key] = (weights[key] - 1.5).astype(np.float32).astype(np.float64)
    return weights, sizes


def rwkv_lm(directory, rng, dtype=torch.float32, layers=3, channels=None):
    weights, sizes = drawn(rng, layers, channels)
    stored = {key: torch.from_numpy(value).to(dtype) for key, value in weights.items()}
    torch.save(stored, directory / "model.pth")
    weights = {key: value.double().numpy() for key, value in stored.items()}
    tokens = rng.integers(0, sizes["vocabulary"], (2, int(rng.integers(30, 75))))
    logits, transitions, inputs = forward(weights, layers, tokens)
    case.write(directory, reference=TWIN, tokens=tokens, logits=logits, transitions=transitions, layer_inputs=inputs,
               dtypes=("float64", "float32"), checkpoint="model.pth")


HUGGING_FACE = {"emb": "rwkv.embeddings", "ln_out": "rwkv.ln_out", "head": "head", "blocks": "rwkv.blocks", "ln0": "pre_ln",
                "att": "attention", "ffn": "feed_forward", "time_mix_k": "time_mix_key", "time_mix_v": "time_mix_value",
                "time_mix_r": "time_mix_receptance"}


def hugging_face_case(directory, rng, layers=3, channels=None, rescale_every=6, gauge=None):
    weights, sizes = drawn(rng, layers, channels)
    config = transformers.RwkvConfig(vocab_size=sizes["vocabulary"], hidden_size=sizes["width"], num_hidden_layers=layers,
                                     attention_hidden_size=channels, intermediate_size=sizes["hidden"],
                                     rescale_every=rescale_every)
    tokens = rng.integers(0, sizes["vocabulary"], (2, int(rng.integers(30, 75))))
    with hugging_face.in_float64():
        model = transformers.RwkvForCausalLM(config)
        model.load_state_dict({".".join(HUGGING_FACE.get(part, part) for part in key.split(".")): torch.from_numpy(value)
                               for key, value in weights.items()})
        model.save_pretrained(directory / "checkpoint")  # before it halves its own weights
        model.eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens), use_cache=False).logits.numpy()
    # Its λ are no tensor of its own: the twin's, whose logits are transformers'.
    expected, transitions, inputs = forward(weights, layers, tokens, rescale_every)
    assert np.abs(expected - logits).max() <= 1e-12 * np.abs(logits).max()
    if gauge == "raw":  # what its recurrence multiplies numerator and denominator with
        transitions = {f"layers.{layer}.rwkv4": case.log_magnitude(-block.attention.time_decay.detach().exp().numpy()[:, None])
                       for layer, block in enumerate(model.rwkv.blocks)}
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions=transitions,
               layer_inputs=inputs, dtypes=("float64", "float32"), gauge=gauge)


CASES = {
    "rwkv4/rwkv-lm/float32": rwkv_lm,
    "rwkv4/rwkv-lm/bfloat16": functools.partial(rwkv_lm, dtype=torch.bfloat16, layers=2),
    "rwkv4/rwkv-lm/narrow_time_mix": functools.partial(rwkv_lm, channels=10, layers=1),
    "rwkv4/huggingface/rescaled": functools.partial(hugging_face_case, layers=5, rescale_every=2),
    "rwkv4/huggingface/plain": functools.partial(hugging_face_case, channels=14, layers=2),
    "rwkv4/huggingface/raw_gauge": functools.partial(hugging_face_case, layers=2, gauge="raw"),
}
