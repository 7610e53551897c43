"""Llama against transformers, in float64 throughout (rotary scalings are in llama_kin.py): Hugging Face's layout; and Meta's, whose
weights it is given under its own keys, and whose eigenvalues are those of a NumPy Llama written from Meta's description of its
checkpoints, which is compared with it on every run."""

import functools
import json
import math
import os
import pathlib

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file

import case
import hugging_face

LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)


def make(directory, rng, steps=None, **settings):
    config = transformers.LlamaConfig(vocab_size=50, hidden_size=2 * settings["num_attention_heads"] * int(rng.integers(4, 12)),
                                      intermediate_size=int(rng.integers(20, 90)), num_hidden_layers=3,
                                      max_position_embeddings=128, **settings)
    hugging_face.float64_attention_model(directory, rng, transformers.LlamaForCausalLM, config, steps or int(rng.integers(20, 60)))


# --- Meta's layout ---


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def meta_llama(weights, config, tokens):
    """Returns logits [B,T,V] and the log-sum-exps [B,H,T] of every layer."""
    heads, groups = config["n_heads"], config["n_kv_heads"]
    batch, steps = tokens.shape
    size = config["dim"] // heads
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)[:, None, :]  # [T,1,size/2]

    def rotate(x):  # [B,T,H,size], pairs (2m, 2m+1)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = weights["tok_embeddings.weight"][tokens]
    log_sum_exps = []
    for layer in range(config["n_layers"]):
        w = {key.removeprefix(f"layers.{layer}."): value for key, value in weights.items()}
        normed = rms_norm(x, w["attention_norm.weight"])
        q = rotate((normed @ w["attention.wq.weight"].T).reshape(batch, steps, heads, size))
        k = rotate((normed @ w["attention.wk.weight"].T).reshape(batch, steps, groups, size)).repeat(heads // groups, 2)
        v = (normed @ w["attention.wv.weight"].T).reshape(batch, steps, groups, size).repeat(heads // groups, 2)
        scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(size)
        scores[..., np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
        peak = scores.max(-1, keepdims=True)
        total = np.exp(scores - peak).sum(-1, keepdims=True)
        log_sum_exps.append((peak + np.log(total))[..., 0])
        attended = np.einsum("bhts,bshd->bthd", np.exp(scores - peak) / total, v).reshape(batch, steps, -1)
        x = x + attended @ w["attention.wo.weight"].T
        normed = rms_norm(x, w["ffn_norm.weight"])
        gate = normed @ w["feed_forward.w1.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    head = weights["output.weight" if "output.weight" in weights else "tok_embeddings.weight"]
    return rms_norm(x, weights["norm.weight"]) @ head.T, log_sum_exps


HUGGING_FACE = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head", "attention.wq": "self_attn.q_proj",
                "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
                "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
                "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def hugging_face_logits(weights, config, tokens):
    """transformers' of the same model. Its rotary pairs are halves of a head, not neighbours: rows of q and k are put in that order."""
    size = config["dim"] // config["n_heads"]
    state = {}
    for key, value in weights.items():
        layer, name = (key.split(".", 2)[1:] if key.startswith("layers.") else (None, key))
        name = name.removesuffix(".weight")
        if name in ("attention.wq", "attention.wk"):
            value = value.reshape(-1, size // 2, 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        prefix = "" if layer is None else f"model.layers.{layer}."
        state[f"{prefix}{HUGGING_FACE[name]}.weight"] = torch.from_numpy(np.array(value))
    tied = "lm_head.weight" not in state
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    with hugging_face.in_float64():
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=config["vocab_size"], hidden_size=config["dim"], num_hidden_layers=config["n_layers"],
            num_attention_heads=config["n_heads"], num_key_value_heads=config["n_kv_heads"], rms_norm_eps=1e-5,
            intermediate_size=weights["layers.0.feed_forward.w1.weight"].shape[0], tie_word_embeddings=tied))
        model.load_state_dict(state)
        model.eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            return model(torch.from_numpy(tokens), use_cache=False).logits.numpy()


def write_meta(directory, weights, config, tokens, **facts):
    expected, log_sum_exps = meta_llama(weights, config, tokens)
    logits = hugging_face_logits(weights, config, tokens)
    assert np.abs(expected - logits).max() <= 1e-12 * np.abs(logits).max()
    case.write(directory, reference=f"{hugging_face.REFERENCE} (under Meta's keys)", tokens=tokens, logits=logits,
               transitions={f"layers.{layer}.attention": case.softmax(lse) for layer, lse in enumerate(log_sum_exps)}, **facts)


def make_meta(directory, rng, groups):
    size, heads, vocabulary, layers = 2 * int(rng.integers(2, 6)), 2 * groups, 50, 2
    width, inner, kv = size * heads, int(rng.integers(20, 70)), size * groups
    shapes = {"tok_embeddings.weight": (vocabulary, width), "norm.weight": (width,), "output.weight": (vocabulary, width)}
    for layer in range(layers):
        for name, shape in {"attention.wq": (width, width), "attention.wk": (kv, width), "attention.wv": (kv, width),
                            "attention.wo": (width, width), "feed_forward.w1": (inner, width),
                            "feed_forward.w2": (width, inner), "feed_forward.w3": (inner, width),
                            "attention_norm": (width,), "ffn_norm": (width,)}.items():
            shapes[f"layers.{layer}.{name}.weight"] = shape
    weights = {key: rng.normal(float(len(shape) == 1), 0.3, shape) for key, shape in shapes.items()}
    config = dict(dim=width, n_layers=layers, n_heads=heads, n_kv_heads=groups, vocab_size=vocabulary, hidden_dim=inner)
    save_file(weights, directory / "model.safetensors", metadata={"config": json.dumps(config)})
    write_meta(directory, weights, config, rng.integers(0, vocabulary, (2, int(rng.integers(20, 60)))),
               checkpoint="model.safetensors", dtypes=("float64", "float32"))


def make_stories(directory, rng):
    """A trained model whose scores reach 360 at 512 steps."""
    path = pathlib.Path(os.environ.get("EIGSVC_SHARED_DIR", "")) / "data/checkpoints/stories260K/stories260K.safetensors"
    if not path.exists():
        raise case.SharedDataMissing(path)
    (directory / "model.safetensors").symlink_to(path)
    with safe_open(path, framework="np") as file:
        config = json.loads(file.metadata()["config"])
        weights = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}
    write_meta(directory, weights, config, rng.integers(0, config["vocab_size"], (1, 512)), checkpoint="model.safetensors",
               dtypes=("float64",))


CASES = {
    "llama/huggingface/grouped": functools.partial(make, num_attention_heads=8, num_key_value_heads=2),
    "llama/huggingface/plain": functools.partial(make, num_attention_heads=4, num_key_value_heads=4),
    "llama/huggingface/one_group_head_dim": functools.partial(make, num_attention_heads=3, num_key_value_heads=1, head_dim=20),
    "llama/huggingface/llama3": functools.partial(make, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                                                  rope_parameters=LLAMA3),
    "llama/huggingface/linear_biases": functools.partial(
        make, num_attention_heads=4, num_key_value_heads=2, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    "llama/huggingface/tied": functools.partial(make, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                                                rms_norm_eps=1e-3),
    "llama/huggingface/short": functools.partial(make, steps=2, num_attention_heads=2, num_key_value_heads=2),
    "llama/meta/grouped": functools.partial(make_meta, groups=2),
    "llama/meta/one_group": functools.partial(make_meta, groups=1),
    "llama/meta/stories260k": make_stories,
}
