"""RWKV-7 against a float64 NumPy twin of arXiv 2503.14456, step by step with every Λ_i as a matrix, in the three layouts.

held_to/rwkv_lm.py compares it with RWKV-LM 524481d in float64 without kernels: with RWKV-v7/rwkv_v7_demo.py, logits with seeds
1 to 5 differ by 1.4e-14 of the largest at most; of its toy models, with RWKV-v8/251105_reverse_run.py and its ROSA branch
off, by 1e-14. held_to/flash_linear_attention.py, with flash-linear-attention bc3b101, RWKV7ForCausalLM in float64 with
dplr_recurrence: by 5.1e-15. Checked once by hand: 260123_reverse_L2_only_rwkv7.pth, whose logits reach 52, by 4e-13; fla's
kernels, in float32 on Triton's interpreter, by 9e-6."""

import functools
import json

import numpy as np
import torch
from safetensors.numpy import save_file

import case
from plain import *

TWIN = "float64 NumPy twin, step by step (oracles/rwkv7.py)"


def time_mix(p, x, v_first, *, head, norm_eps, key_eps):
    """p: the layer's tensors by RWKV-LM's names. Returns the output, the values and Λ."""
    xx = shifted(x) - x
    xr, xw, xk, xv, xa, xg = (x + xx * p["x_" + letter].reshape(-1) for letter in "rwkvag")
    r, k, v = xr @ p["receptance.weight"].T, xk @ p["key.weight"].T, xv @ p["value.weight"].T
    w = np.exp(-np.exp(-softplus(-(p["w0"].reshape(-1) + np.tanh(xw @ p["w1"]) @ p["w2"])) - 0.5))
    if v_first is not None:
        v = v + (v_first - v) * sigmoid(p["v0"].reshape(-1) + xv @ p["v1"] @ p["v2"])
    a = sigmoid(p["a0"].reshape(-1) + xa @ p["a1"] @ p["a2"])
    g = sigmoid(xg @ p["g1"]) @ p["g2"]
    kk = heads(k * p["k_k"].reshape(-1), head)
    if key_eps:
        kk = l2_norm(kk, key_eps)
    else:
        kk = kk / np.maximum(np.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
    k = heads(k * (1 + (a - 1) * p["k_a"].reshape(-1)), head)
    r, w, a = heads(r, head), heads(w, head), heads(a, head)
    values = heads(v, head)
    matrices = diagonal(w) - outer(kk * a, kk)
    o = recurrence(matrices, r, k, values)
    o = flat(layer_norm(o, 1, 0, norm_eps)) * p["ln_x.weight"] + p["ln_x.bias"]
    o = o + flat((r * k * p["r_k"]).sum(-1, keepdims=True) * values)
    return (o * g) @ p["output.weight"].T + p.get("output.bias", 0), v, matrices


def channel_mix(p, x):
    k = x + (shifted(x) - x) * p["x_k"].reshape(-1)
    return relu(k @ p["key.weight"].T) ** 2 @ p["value.weight"].T


def forward(weights, layers, x, *, norm, norm_eps=64e-5, key_eps=0):
    """weights: by RWKV-LM's names, embedding and head apart; norm(name, x). Returns x and every layer's Λ."""
    v_first, transitions = None, {}
    for layer in range(layers):
        block = f"blocks.{layer}."
        p = {key[len(block) + 4:]: w for key, w in weights.items() if key.startswith(block + "att.")}
        out, v, matrices = time_mix(p, norm(block + "ln1", x), v_first, head=p["r_k"].shape[1], norm_eps=norm_eps,
                                    key_eps=key_eps)
        v_first = v if v_first is None else v_first
        x = x + out
        ffn = {key[len(block) + 4:]: w for key, w in weights.items() if key.startswith(block + "ffn.")}
        x = x + channel_mix(ffn, norm(block + "ln2", x))
        transitions[f"layers.{layer}.rwkv7"] = key_side(matrices, p["r_k"].shape[1])
    return x, transitions


def official(weights, layers, tokens):
    """A .pth of RWKV-LM, or its toy models' names translated to those."""
    norm = lambda name, x: layer_norm(x, weights[name + ".weight"], weights[name + ".bias"], 1e-5)
    x = weights["emb.weight"][tokens]
    if "blocks.0.ln0.weight" in weights:
        x = norm("blocks.0.ln0", x)
    x, transitions = forward(weights, layers, x, norm=norm)
    return linear(weights, "head", norm("ln_out", x)), transitions


def shapes(layers, width, head, vocabulary, hidden, ranks):
    w, a, v, g = ranks
    found = {"emb.weight": (vocabulary, width), "blocks.0.ln0.weight": (width,), "blocks.0.ln0.bias": (width,)}
    for layer in range(layers):
        block = f"blocks.{layer}."
        for norm in ("ln1", "ln2"):
            found |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        att = {f"x_{letter}": (1, 1, width) for letter in "rwkvag"}
        for letter, rank in (("w", w), ("a", a), ("v", v)):
            att |= {letter + "0": (1, 1, width), letter + "1": (width, rank), letter + "2": (rank, width)}
        att |= {"g1": (width, g), "g2": (g, width), "k_k": (1, 1, width), "k_a": (1, 1, width),
                "r_k": (width // head, head), "receptance.weight": (width, width), "key.weight": (width, width),
                "value.weight": (width, width), "output.weight": (width, width), "ln_x.weight": (width,),
                "ln_x.bias": (width,)}
        found |= {f"{block}att.{name}": shape for name, shape in att.items()}
        found |= {f"{block}ffn.x_k": (1, 1, width), f"{block}ffn.key.weight": (hidden, width),
                  f"{block}ffn.value.weight": (width, hidden)}
    return found | {"ln_out.weight": (width,), "ln_out.bias": (width,), "head.weight": (vocabulary, width)}


def drawn(rng, layers):
    head, count = int(rng.integers(8, 13)), int(rng.integers(1, 4))
    sizes = dict(layers=layers, width=head * count, head=head, vocabulary=int(rng.integers(20, 50)),
                 hidden=int(rng.integers(10, 50)), ranks=rng.integers(2, 7, 4).tolist())
    weights = draw(rng, shapes(**sizes))
    for key in weights:
        if ".ln" in key and key.endswith(".weight"):
            weights[key] = (1 + weights[key]).astype(np.float32).astype(np.float64)
        if key.endswith("w0"):  # decays from strong to weak
            weights[key] *= 4
    return weights, sizes


def some_tokens(rng, vocabulary):
    return rng.integers(0, vocabulary, (2, int(rng.integers(30, 75))))


def rwkv_lm(directory, rng, dtype=torch.float32, layers=3):
    weights, sizes = drawn(rng, layers)
    stored = {key: torch.from_numpy(value).to(dtype) for key, value in weights.items()}
    torch.save(stored, directory / "model.pth")
    weights = {key: value.double().numpy() for key, value in stored.items()}
    tokens = some_tokens(rng, sizes["vocabulary"])
    logits, transitions = official(weights, layers, tokens)
    case.write(directory, reference=case.held_to(TWIN, "RWKV-LM 524481d", "3e-14"), tokens=tokens, logits=logits,
               transitions=transitions, dtypes=("float64", "float32"), checkpoint="model.pth")


def demo_key(key):
    """RWKV-LM's name of a toy model's key."""
    if key.startswith(("emb.", "ln_out.", "head.")):
        return {"emb": "e", "ln_out": "lno", "head": "o"}[key.split(".")[0]] + key[key.index("."):]
    _, layer, part, *rest = key.split(".")
    number = int(layer) + 1
    stem = {"ln1": f"ln{number}a", "ln2": f"ln{number}b", "att": f"rwkv{number}", "ffn": f"ffn{number}"}[part]
    name = ".".join([stem, *rest])
    return f"rosa{number}.o.bias" if name == f"rwkv{number}.output.bias" else name


def demo(directory, rng, layers=2):
    weights, sizes = drawn(rng, layers)
    for name in [name for name in weights if ".ln0." in name]:
        del weights[name]
    extra = {f"blocks.{layer}.att.output.bias": (sizes["width"],) for layer in range(layers)}
    weights |= draw(rng, extra | {"head.bias": (sizes["vocabulary"],)})
    torch.save({demo_key(key): torch.from_numpy(value).float() for key, value in weights.items()},
               directory / "model.pth")
    tokens = some_tokens(rng, sizes["vocabulary"])
    logits, transitions = official(weights, layers, tokens)
    case.write(directory, reference=case.held_to(TWIN, "RWKV-LM 524481d", "4e-13"), tokens=tokens, logits=logits,
               transitions=transitions, dtypes=("float64", "float32"), checkpoint="model.pth")


def fla_weights(weights, layers, fused_shifts):
    """flash-linear-attention's keys and shapes of RWKV-LM's tensors."""
    stored = {"model.embeddings.weight": weights["emb.weight"], "lm_head.weight": weights["head.weight"]}
    for kind in ("weight", "bias"):
        stored[f"model.layers.0.pre_norm.{kind}"] = weights[f"blocks.0.ln0.{kind}"]
        stored[f"model.norm.{kind}"] = weights[f"ln_out.{kind}"]
    for layer in range(layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            stored[f"{theirs}attn_norm.{kind}"] = weights[f"{ours}ln1.{kind}"]
            stored[f"{theirs}ffn_norm.{kind}"] = weights[f"{ours}ln2.{kind}"]
            stored[f"{theirs}attn.g_norm.{kind}"] = weights[f"{ours}att.ln_x.{kind}"]
        shifts = [weights[f"{ours}att.x_{letter}"] for letter in "rwkvag"]
        if fused_shifts:
            stored[theirs + "attn.x_x"] = np.concatenate(shifts).reshape(6, -1)
        else:
            stored |= {f"{theirs}attn.x_{letter}": shift for letter, shift in zip("rwkvag", shifts)}
        for name in ("k_k", "k_a"):
            stored[f"{theirs}attn.{name}"] = weights[f"{ours}att.{name}"].reshape(-1)
        stored[theirs + "attn.r_k"] = weights[ours + "att.r_k"]
        for name in ("receptance", "key", "value", "output"):
            short = "o" if name == "output" else name[0]
            stored[f"{theirs}attn.{short}_proj.weight"] = weights[f"{ours}att.{name}.weight"]
        for letter in "wavg" if layer > 0 else "wag":
            lora = f"{theirs}attn.{letter}_lora.lora."
            stored[lora + "0.weight"] = weights[f"{ours}att.{letter}1"].T
            stored[lora + "2.weight"] = weights[f"{ours}att.{letter}2"].T
            if letter != "g":
                stored[lora + "2.bias"] = weights[f"{ours}att.{letter}0"].reshape(-1)
        stored[theirs + "ffn.x_k"] = weights[ours + "ffn.x_k"].reshape(-1)
        for name in ("key", "value"):
            stored[f"{theirs}ffn.{name}.weight"] = weights[f"{ours}ffn.{name}.weight"]
    return stored


def fla(directory, rng, layers=3, fuse_norm=True, norm_first=True, fused_shifts=False, norm_eps=1e-5):
    weights, sizes = drawn(rng, layers)
    stored = fla_weights(weights, layers, fused_shifts)
    if not norm_first:
        for kind in ("weight", "bias"):
            del stored[f"model.layers.0.pre_norm.{kind}"]
    config = {"model_type": "rwkv7", "architectures": ["RWKV7ForCausalLM"], "hidden_size": sizes["width"],
              "num_hidden_layers": layers, "head_dim": sizes["head"], "num_heads": sizes["width"] // sizes["head"],
              "decay_low_rank_dim": sizes["ranks"][0], "a_low_rank_dim": sizes["ranks"][1],
              "v_low_rank_dim": sizes["ranks"][2], "gate_low_rank_dim": sizes["ranks"][3], "hidden_act": "sqrelu",
              "intermediate_size": sizes["hidden"], "norm_first": norm_first, "norm_bias": True, "norm_eps": norm_eps,
              "fuse_norm": fuse_norm, "attn": None, "value_dim": [sizes["width"]] * layers,
              "vocab_size": sizes["vocabulary"], "tie_word_embeddings": False}
    (directory / "checkpoint").mkdir()
    (directory / "checkpoint" / "config.json").write_text(json.dumps(config))
    save_file({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in stored.items()},
              directory / "checkpoint" / "model.safetensors", metadata={"format": "pt"})
    tokens = some_tokens(rng, sizes["vocabulary"])
    logits, transitions = fla_forward(weights, config, tokens)
    case.write(directory, reference=case.held_to(TWIN, "flash-linear-attention bc3b101", "6e-15"), tokens=tokens,
               logits=logits, transitions=transitions, dtypes=("float64", "float32"))


def fla_forward(weights, config, tokens):
    """weights: RWKV-LM's tensors that fla_weights translates."""
    eps = config["norm_eps"]
    norm = lambda name, x: layer_norm(x, weights[name + ".weight"], weights[name + ".bias"], eps)
    x = weights["emb.weight"][tokens]
    if config["norm_first"]:
        x = norm("blocks.0.ln0", x)
    x, transitions = forward(weights, config["num_hidden_layers"], x, norm=norm, norm_eps=config["head_dim"] * eps,
                             key_eps=1e-6 if config["fuse_norm"] else 0)
    return linear(weights, "head", norm("ln_out", x)), transitions


CASES = {
    "rwkv7/rwkv-lm/float32": rwkv_lm,
    "rwkv7/rwkv-lm/bfloat16": functools.partial(rwkv_lm, dtype=torch.bfloat16, layers=2),
    "rwkv7/rwkv-lm/one_layer": functools.partial(rwkv_lm, layers=1),
    "rwkv7/rwkv-lm-demo/with_output_bias": demo,
    "rwkv7/fla/fused_norm": fla,
    "rwkv7/fla/plain_norm": functools.partial(fla, fuse_norm=False, norm_eps=1e-4),
    "rwkv7/fla/first_version": functools.partial(fla, fused_shifts=True, norm_first=False, layers=2),
}
