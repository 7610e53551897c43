"""Expected results for the attention tests, from implementations that are not ours.

    oracle_attention.py transformers --seed N DIRECTORY   makes random Llama and GPT-2 models there, one folder each
    oracle_attention.py twin --seed N DIRECTORY           runs the float64 twin of the paper's block over
                                                          DIRECTORY/*/model.safetensors
    oracle_attention.py meta --seed N DIRECTORY           runs a float64 Llama over DIRECTORY/*.safetensors in Meta's
                                                          layout, 512 random tokens; writes DIRECTORY/expected.safetensors

Each folder gets expected.safetensors: tokens [B,T], logits [B,T,V] and lse.N [B,H,T], the float64 log-sum-exps of the
scores that layer N's softmax saw: of the q and k that the oracle itself handed to its eager attention, behind its rotary
embeddings, or of the twin's own scores.
"""

import argparse
import json
import math
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
LLAMA = {
    "llama_plain": dict(num_attention_heads=4, num_key_value_heads=4),
    "llama_grouped": dict(num_attention_heads=8, num_key_value_heads=2),
    "llama_one_group_head_dim": dict(num_attention_heads=3, num_key_value_heads=1, head_dim=20),
    "llama_llama3": dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, rope_parameters=LLAMA3),
    "llama_linear_biases": dict(num_attention_heads=4, num_key_value_heads=2, attention_bias=True, mlp_bias=True,
                                rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5)),
    "llama_tied": dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "llama_short": dict(num_attention_heads=2, num_key_value_heads=2),
}
GPT2 = {
    "gpt2_plain": dict(n_head=4),
    "gpt2_by_layer": dict(n_head=6, scale_attn_by_inverse_layer_idx=True, n_inner=40),
    "gpt2_unscaled": dict(n_head=3, scale_attn_weights=False, activation_function="gelu", layer_norm_epsilon=1e-3),
    "gpt2_relu_untied": dict(n_head=4, activation_function="relu", tie_word_embeddings=False),
}
STEPS = {"llama_short": 2, "gpt2_by_layer": 64}  # 64: every position there is


def record_eager_attention(module, seen):
    """Makes transformers' eager attention of `module` append the log-sum-exps of its own scores to `seen`."""
    import torch

    eager = module.eager_attention_forward

    def recording(layer, query, key, value, attention_mask, scaling=None, **kwargs):
        assert scaling is not None
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query.double() @ keys.double().transpose(-1, -2) * scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        seen.append(scores.masked_fill(future, -math.inf).logsumexp(-1))
        return eager(layer, query, key, value, attention_mask, scaling=scaling, **kwargs)

    module.eager_attention_forward = recording


def run_transformers(directory, seed):
    import torch
    import transformers
    from transformers.models.gpt2 import modeling_gpt2
    from transformers.models.llama import modeling_llama

    assert int(transformers.__version__.split(".")[0]) >= 5, transformers.__version__
    seen = []
    record_eager_attention(modeling_llama, seen)
    record_eager_attention(modeling_gpt2, seen)
    torch.manual_seed(seed)
    for name, settings in {**LLAMA, **GPT2}.items():
        if name in LLAMA:
            width = 16 * settings["num_attention_heads"]
            config = transformers.LlamaConfig(vocab_size=50, hidden_size=width, intermediate_size=72, num_hidden_layers=3,
                                              max_position_embeddings=128, **settings)
            model = transformers.LlamaForCausalLM(config)
        else:
            config = transformers.GPT2Config(vocab_size=50, n_embd=48, n_layer=3, n_positions=64, eos_token_id=1,
                                             bos_token_id=1, **settings)
            # In float64 end to end; Llama's class turns in float32 whatever the model's dtype.
            model = transformers.GPT2LMHeadModel(config).double()
        model.eval()
        model.set_attn_implementation("eager")
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms away from 0 and 1, scores away from 0
                parameter.add_(0.15 * torch.randn_like(parameter))
            tokens = torch.randint(0, 50, (2, STEPS.get(name, 37)))
            seen.clear()
            logits = model(tokens).logits
        assert len(seen) == 3, name
        model.save_pretrained(directory / name)
        save(directory / name, tokens.numpy(), logits.numpy(), [lse.numpy() for lse in seen])


# --- the paper's block, from its description alone (arXiv 2510.09379; keys of its authors' checkpoints) ---


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


def attention(x, weights, prefix, config):
    """Returns the projected output and the log-sum-exps [B,H,T]."""
    heads, d_qk, width = config["num_heads"], config["state_dim"], config["hidden_dim"]
    qkv = affine(x, weights, prefix + "attention.Wqkv")
    if config["dim_conv"] > 0:
        rows = 2 * d_qk + (width if config["conv_type"] == "full" else 0)
        mixed = causal_conv(qkv[..., :rows], weights[prefix + "attention.conv1d.weight"],
                            weights[prefix + "attention.conv1d.bias"])
        qkv = np.concatenate([mixed * sigmoid(mixed), qkv[..., rows:]], axis=-1)
    d, d_v = d_qk // heads, width // heads
    outputs, lses = [], []
    for h in range(heads):
        q = qkv[..., h * d:(h + 1) * d]
        k = qkv[..., d_qk + h * d:d_qk + (h + 1) * d]
        v = qkv[..., 2 * d_qk + h * d_v:2 * d_qk + (h + 1) * d_v]
        scores = np.einsum("btd,bsd->bts", q, k) / math.sqrt(d)
        steps = x.shape[1]
        scores[:, np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
        peak = scores.max(-1, keepdims=True)
        weight = np.exp(scores - peak)
        total = weight.sum(-1, keepdims=True)
        outputs.append(weight / total @ v)
        lses.append((peak + np.log(total))[..., 0])
    return affine(np.concatenate(outputs, -1), weights, prefix + "attention.out_proj"), np.stack(lses, 1)


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


def run_twin(directory, seed):
    generator = np.random.default_rng(seed)
    for folder in sorted(path.parent for path in directory.glob("*/model.safetensors")):
        with safe_open(folder / "model.safetensors", framework="np") as file:
            config = json.loads(file.metadata()["config"])
            weights = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}
        tokens = generator.integers(0, config["vocab_size"], (2, 21))
        x = weights["encoder.word_embeddings.weight"][tokens]
        if config["max_pos_embed"] > 0:
            x = x + weights["encoder.position_embeddings.weight"][:tokens.shape[1]]
        lses = []
        for layer in range(config["num_layers"]):
            prefix = f"layers.{layer}."
            attended, lse = attention(layer_norm(x, weights, prefix + "norm"), weights, prefix, config)
            lses.append(lse)
            summed = x + attended
            normed = layer_norm(summed, weights, prefix + "norm")
            if config["mixer"] == "none":
                result = normed
            else:
                result = summed + mixer(normed, weights, prefix + "mixer.", config["mixer"])
            if config["use_gate"]:
                gate = affine(x, weights, prefix + "Wz")
                result = result * gate * sigmoid(gate)
            x = result
        logits = layer_norm(x, weights, "norm") @ weights["decoder.weight"].T
        save(folder, tokens, logits, lses)


# --- Meta's Llama in float64 ---


def run_meta(directory, seed):
    (path,) = directory.glob("*.safetensors")
    with safe_open(path, framework="np") as file:
        config = json.loads(file.metadata()["config"])
        weights = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}
    heads, groups, steps = config["n_heads"], config["n_kv_heads"], 512
    size = config["dim"] // heads
    tokens = np.random.default_rng(seed).integers(0, config["vocab_size"], (1, steps))
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)[:, None, :]  # [T,1,size/2]

    def rms_norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight

    def rotate(x):  # [B,T,H,size], pairs (2m, 2m+1)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    x = weights["tok_embeddings.weight"][tokens]
    lses = []
    for layer in range(config["n_layers"]):
        w = {key.removeprefix(f"layers.{layer}."): value for key, value in weights.items()}
        normed = rms_norm(x, w["attention_norm.weight"])
        q = rotate((normed @ w["attention.wq.weight"].T).reshape(1, steps, heads, size))
        k = rotate((normed @ w["attention.wk.weight"].T).reshape(1, steps, groups, size)).repeat(heads // groups, 2)
        v = (normed @ w["attention.wv.weight"].T).reshape(1, steps, groups, size).repeat(heads // groups, 2)
        scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(size)
        scores[..., np.triu(np.ones((steps, steps), bool), 1)] = -np.inf
        peak = scores.max(-1, keepdims=True)
        total = np.exp(scores - peak).sum(-1, keepdims=True)
        lses.append((peak + np.log(total))[..., 0])
        attended = np.einsum("bhts,bshd->bthd", np.exp(scores - peak) / total, v).reshape(1, steps, -1)
        x = x + attended @ w["attention.wo.weight"].T
        normed = rms_norm(x, w["ffn_norm.weight"])
        gate = normed @ w["feed_forward.w1.weight"].T
        x = x + (gate * sigmoid(gate) * (normed @ w["feed_forward.w3.weight"].T)) @ w["feed_forward.w2.weight"].T
    save(directory, tokens, rms_norm(x, weights["norm.weight"]) @ weights["tok_embeddings.weight"].T, lses)


def save(folder, tokens, logits, lses):
    tensors = {"tokens": np.ascontiguousarray(tokens, dtype=np.int64), "logits": np.ascontiguousarray(logits)}
    for layer, lse in enumerate(lses):
        tensors[f"lse.{layer}"] = np.ascontiguousarray(lse, dtype=np.float64)
    save_file(tensors, folder / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", choices=["transformers", "twin", "meta"])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    {"transformers": run_transformers, "twin": run_twin, "meta": run_meta}[arguments.oracle](arguments.directory, arguments.seed)


if __name__ == "__main__":
    main()
