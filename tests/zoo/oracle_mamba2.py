"""Expected results for the Mamba-2 tests, from implementations that are not ours.

    oracle_mamba2.py transformers --seed N DIRECTORY   makes random models there, one folder each
    oracle_mamba2.py twin --seed N DIRECTORY           runs the float64 twin over DIRECTORY/*/model.safetensors

Each folder gets expected.safetensors: tokens [B,T], logits [B,T,V] and log_decay.N [B,T,H] = Δ·A of layer N.
"""

import argparse
import json
import math
import pathlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


# --- transformers ---
# Releases before 5 clamp Δ from below by time_step_min in the path without kernels, sum the states of chunks over the
# wrong axis (transformers issues 34817, 47246) and normalise the gated output over its whole width where the kernels do
# so by group. The release in the test environment has none of that: it clamps by time_step_limit and groups by n_groups.
# The asserts below fail if another release is put there.

CASES = {
    "plain": dict(num_heads=4, head_dim=8, state_size=8, n_groups=1, conv_kernel=4, tie_word_embeddings=True),
    "groups": dict(num_heads=8, head_dim=4, state_size=6, n_groups=2, conv_kernel=3, tie_word_embeddings=False),
    "conv_of_two": dict(num_heads=2, head_dim=16, state_size=5, n_groups=2, conv_kernel=2, tie_word_embeddings=True),
    "limits": dict(num_heads=4, head_dim=8, state_size=8, n_groups=1, conv_kernel=4, time_step_limit=(0.05, 0.4)),
    "lower_limit": dict(num_heads=4, head_dim=8, state_size=8, n_groups=4, time_step_limit=(0.05, math.inf)),
    "biases": dict(num_heads=4, head_dim=8, state_size=7, n_groups=1, use_bias=True, use_conv_bias=False),
    "short": dict(num_heads=4, head_dim=8, state_size=8, n_groups=1, layer_norm_epsilon=1e-3, residual_in_fp32=False),
}
STEPS = {"short": 3}  # shorter than the convolution


def run_transformers(directory, seed):
    import torch
    import transformers
    from transformers.models.mamba2 import modeling_mamba2

    assert int(transformers.__version__.split(".")[0]) >= 5, transformers.__version__
    seen = []
    segment_sum = modeling_mamba2.segment_sum

    def recording_segment_sum(tensor):
        seen.append(tensor.detach().clone())  # first call of a layer: Δ·A [B,H,chunks,chunk]; second: its sums
        return segment_sum(tensor)

    modeling_mamba2.segment_sum = recording_segment_sum
    torch.manual_seed(seed)
    for name, settings in CASES.items():
        config = transformers.Mamba2Config(
            vocab_size=40, hidden_size=settings["num_heads"] * settings["head_dim"] // 2, num_hidden_layers=2,
            chunk_size=16, **settings)
        model = transformers.Mamba2ForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            steps = STEPS.get(name, 37)  # odd, and several chunks of 16
            tokens = torch.randint(0, 40, (2, steps))
            seen.clear()
            logits = model(tokens, use_cache=False).logits
        assert len(seen) == 2 * config.num_hidden_layers, len(seen)
        assert model.backbone.layers[0].mixer.norm.group_size * config.n_groups == model.backbone.layers[0].mixer.intermediate_size
        model.save_pretrained(directory / name)
        expected = {"tokens": tokens.numpy(), "logits": logits.numpy()}
        for layer in range(config.num_hidden_layers):
            log_decay = seen[2 * layer].flatten(2)[:, :, :steps].transpose(1, 2)
            expected[f"log_decay.{layer}"] = np.ascontiguousarray(log_decay.numpy())
        save_file(expected, directory / name / "expected.safetensors")


# --- The twin: each layout as its reference's source describes it, one step at a time, in float64 ---

def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.where(x > 20, x, np.logaddexp(0, x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def linear(weights, name, x):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def norm(weights, name, x, rms, eps):
    if not rms:
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weights[name + ".weight"]
    return y if rms else y + weights[name + ".bias"]


def ssm(weights, prefix, xbc, dt_raw, heads, groups, width, limit):
    """width: channels of x. Returns y before any gate, and Δ·A."""
    batch, steps, _ = xbc.shape
    kernel = weights[prefix + "conv1d.weight"][:, 0, :]
    taps = kernel.shape[1]
    padded = np.concatenate([np.zeros((batch, taps - 1, xbc.shape[2])), xbc], axis=1)
    mixed = sum(padded[:, k:k + steps] * kernel[:, k] for k in range(taps))
    mixed = silu(mixed + weights.get(prefix + "conv1d.bias", 0))
    order = (xbc.shape[2] - width) // (2 * groups)
    x = mixed[..., :width].reshape(batch, steps, heads, -1)
    b = mixed[..., width:width + groups * order].reshape(batch, steps, groups, order).repeat(heads // groups, axis=2)
    c = mixed[..., width + groups * order:].reshape(batch, steps, groups, order).repeat(heads // groups, axis=2)
    dt = np.clip(softplus(dt_raw + weights[prefix + "dt_bias"]), *limit)
    log_decay = dt * -np.exp(weights[prefix + "A_log"])
    h = np.zeros((batch, heads, x.shape[3], order)) + weights.get(prefix + "init_states", 0)
    y = np.zeros_like(x)
    for t in range(steps):
        h = np.exp(log_decay[:, t])[..., None, None] * h
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        y[:, t] = (h * c[:, t, :, None, :]).sum(-1)
    y = y + weights[prefix + "D"].reshape(heads, -1) * x
    return y.reshape(batch, steps, width), log_decay


def twin_official(weights, settings, tokens):
    mixer_settings = settings.get("ssm_cfg", settings)
    get = lambda *names, default: next((s[n] for n in names for s in (mixer_settings, settings) if n in s), default)
    groups = get("ngroups", "n_groups", default=1)
    rms = get("rms_norm", default=True)
    eps = get("norm_epsilon", "layer_norm_epsilon", default=1e-5)
    limit = [float(v["__float__"]) if isinstance(v, dict) else v
             for v in get("dt_limit", "time_step_limit", default=[0, math.inf])]
    embedding = weights.get("backbone.embedding.weight", weights.get("backbone.embeddings.weight"))
    x = embedding[tokens]
    decays = []
    while f"backbone.layers.{len(decays)}.mixer.A_log" in weights:
        block = f"backbone.layers.{len(decays)}."
        mixer = block + "mixer."
        heads = weights[mixer + "A_log"].shape[0]
        inner = weights[mixer + "out_proj.weight"].shape[1]
        width = get("d_ssm", default=inner)
        mlp = inner - width
        projected = linear(weights, mixer + "in_proj", norm(weights, block + "norm", x, rms, eps))
        z0, x0, z, xbc, dt_raw = np.split(projected, np.cumsum(
            [mlp, mlp, width, weights[mixer + "conv1d.weight"].shape[0]]), axis=-1)
        y, log_decay = ssm(weights, mixer, xbc, dt_raw, heads, groups, width, limit)
        y = y * silu(z)
        if mixer + "norm.weight" in weights:
            grouped = y.reshape(*y.shape[:2], get("gated_norm_groups", default=groups), -1)
            grouped = grouped / np.sqrt((grouped * grouped).mean(-1, keepdims=True) + 1e-5)
            y = grouped.reshape(y.shape) * weights[mixer + "norm.weight"]
        y = np.concatenate([silu(z0) * x0, y], axis=-1)
        x = x + linear(weights, mixer + "out_proj", y)
        decays.append(log_decay)
    x = norm(weights, "backbone.norm_f", x, rms, eps)
    return x @ weights.get("lm_head.weight", embedding).T, decays


def twin_paper(weights, settings, tokens):
    x = weights["encoder.word_embeddings.weight"][tokens]
    decays = []
    while f"blocks.{len(decays)}.mamba.A_log" in weights:
        block = f"blocks.{len(decays)}."
        mixer = block + "mamba."
        heads = weights[mixer + "A_log"].shape[0]
        width = weights[mixer + "out_proj.weight"].shape[1]
        y = norm(weights, block + "norm", x, False, 1e-5) if settings["prenorm"] else x
        xbc, dt_raw = np.split(linear(weights, mixer + "in_proj", y), [-heads], axis=-1)
        y, log_decay = ssm(weights, mixer, xbc, dt_raw, heads, 1, width, (0, math.inf))
        y = gelu(linear(weights, mixer + "out_proj", y))
        if block + "glu.linear.weight" in weights:
            first, second = np.split(linear(weights, block + "glu.linear", y), 2, axis=-1)
            y = first * sigmoid(second)
        x = x + y
        if not settings["prenorm"]:
            x = norm(weights, block + "norm", x, False, 1e-5)
        decays.append(log_decay)
    return linear(weights, "decoder", x), decays


def run_twin(directory, seed):
    random = np.random.default_rng(seed)
    for path in sorted(directory.glob("*/model.safetensors")):
        with safe_open(path, "numpy") as file:
            weights = {key: file.get_tensor(key).astype(np.float64) for key in file.keys()}
            settings = json.loads(file.metadata()["config"])
        tokens = random.integers(0, 48, (2, 37))
        twin = twin_paper if settings["layout"] == "paper" else twin_official
        logits, decays = twin(weights, settings, tokens)
        expected = {"tokens": tokens, "logits": logits}
        expected.update({f"log_decay.{i}": decay for i, decay in enumerate(decays)})
        save_file(expected, path.parent / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", choices=["transformers", "twin"])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    {"transformers": run_transformers, "twin": run_twin}[arguments.oracle](arguments.directory, arguments.seed)


if __name__ == "__main__":
    main()
