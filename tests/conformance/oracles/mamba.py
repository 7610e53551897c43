"""Mamba-1 and FalconMamba: Hugging Face's layout against transformers in float32 (its scan casts to float32 whatever the
model's dtype); those of state-spaces/mamba and flash-linear-attention against a float64 NumPy twin, written one step at a
time from arXiv 2312.00752 and the references' module definitions.

held_to/state_spaces_mamba.py compares it with state-spaces/mamba e9594ce, the whole model with its selective_scan_ref, float64
inside too, held_to/flash_linear_attention.py with flash-linear-attention bc3b101 without kernels: logits with seeds 1 to 5 differ
by 1.2e-14 and 2e-14 of the largest at most."""

import functools
import json
import math

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.falcon_mamba import modeling_falcon_mamba
from transformers.models.mamba import modeling_mamba

import case
import hugging_face
from mamba2 import (ATTENTION, attention, attention_shapes, by_layer, double, draw, linear, network_shapes, norm, save_torch, silu,
                    softplus, with_network)

NAME = "float64 NumPy twin, step by step (oracles/mamba.py)"
TWIN = case.held_to(NAME, "state-spaces/mamba e9594ce", "2e-14")
FLA_TWIN = case.held_to(NAME, "flash-linear-attention bc3b101", "3e-14")


# --- transformers ---


class recorded_scan:
    """While entered, keeps Δ·A [B,T,channels,N] of every call of a modeling module's selective scan, in float64."""

    def __init__(self, module):
        self.module, self.scan, self.seen = module, module.mamba_selective_scan, []

    def __enter__(self):
        def recording(x, dt, a, *rest, delta_bias=None, **named):
            step = torch.nn.functional.softplus(dt.double() + delta_bias.double()[:, None])  # [B,channels,T]
            self.seen.append((step.transpose(1, 2).unsqueeze(-1) * a.double()).numpy())
            return self.scan(x, dt, a, *rest, delta_bias=delta_bias, **named)

        self.module.mamba_selective_scan = recording
        return self.seen

    def __exit__(self, *_):
        self.module.mamba_selective_scan = self.scan


def make(directory, rng, module, config, model, steps=None, **settings):
    config = config(vocab_size=40, hidden_size=4 * int(rng.integers(4, 9)), num_hidden_layers=2, pad_token_id=0, **settings)
    with recorded_scan(module) as seen:
        tokens, logits = hugging_face.run(directory, rng, model(config), steps or int(rng.integers(20, 60)), deviation=0.2)
    assert len(seen) == config.num_hidden_layers, len(seen)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits,
               transitions={f"layers.{layer}.mamba": case.log_magnitude(values) for layer, values in enumerate(seen)})


# --- the twin ---


def ssm(weights, prefix, x, z, inner_norm=lambda name, part: part):
    """x, z [B,T,channels] of the input projection. Returns what the output projection takes, and Δ·A."""
    batch, steps, channels = x.shape
    kernel = weights[prefix + "conv1d.weight"][:, 0, :]
    taps = kernel.shape[1]
    padded = np.concatenate([np.zeros((batch, taps - 1, channels)), x], axis=1)
    x = silu(sum(padded[:, k:k + steps] * kernel[:, k] for k in range(taps)) + weights.get(prefix + "conv1d.bias", 0))
    a = -np.exp(weights[prefix + "A_log"])
    order = a.shape[1]
    rank = weights[prefix + "dt_proj.weight"].shape[1]
    low, b, c = np.split(x @ weights[prefix + "x_proj.weight"].T, [rank, rank + order], axis=-1)
    low, b, c = inner_norm("dt", low), inner_norm("b", b), inner_norm("c", c)
    dt = softplus(linear(weights, prefix + "dt_proj", low))
    log_decay = dt[..., None] * a
    h = np.zeros((batch, channels, order))
    y = np.zeros_like(x)
    for t in range(steps):
        h = np.exp(log_decay[:, t]) * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None, :]
        y[:, t] = (h * c[:, t, None, :]).sum(-1)
    return (y + weights[prefix + "D"] * x) * silu(z), log_decay


def twin(weights, tokens, layers, embedding, rms, eps, attending=(), attn_cfg=None):
    """Logits and every layer's Δ·A, or what is expected of its attention."""
    x = weights[embedding][tokens]
    decays = []
    for layer in range(layers):
        block = f"backbone.layers.{layer}."
        mixer = block + "mixer."
        if layer in attending:
            y, expected = attention(weights, mixer, attn_cfg, norm(weights, block + "norm", x, rms, eps))
            x = with_network(weights, block, x + y, rms, eps)
            decays.append(expected)
            continue
        first, z = np.split(linear(weights, mixer + "in_proj", norm(weights, block + "norm", x, rms, eps)), 2, axis=-1)
        y, log_decay = ssm(weights, mixer, first, z)
        x = with_network(weights, block, x + linear(weights, mixer + "out_proj", y), rms, eps)
        decays.append(log_decay)
    return norm(weights, "backbone.norm_f", x, rms, eps) @ weights.get("lm_head.weight", weights[embedding]).T, decays


def shapes_of(embedding, vocabulary, width, layers, channels, order, rank, taps, rms=True, bias=False, conv_bias=True, tied=True,
              attending=(), attn_cfg=None, network=0):
    shapes = {embedding: (vocabulary, width)}
    for name in [f"backbone.layers.{layer}.norm" for layer in range(layers)] + ["backbone.norm_f"]:
        shapes[name + ".weight"] = (width,)
        if not rms:
            shapes[name + ".bias"] = (width,)
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, width)
    for layer in range(layers):
        block = f"backbone.layers.{layer}."
        mixer = block + "mixer."
        if network:
            shapes.update(network_shapes(block, network, width, rms))
        if layer in attending:
            shapes.update(attention_shapes(mixer, attn_cfg, width))
            continue
        shapes.update({mixer + "in_proj.weight": (2 * channels, width), mixer + "conv1d.weight": (channels, 1, taps),
                       mixer + "x_proj.weight": (rank + 2 * order, channels), mixer + "dt_proj.weight": (channels, rank),
                       mixer + "dt_proj.bias": (channels,), mixer + "A_log": (channels, order), mixer + "D": (channels,),
                       mixer + "out_proj.weight": (width, channels)})
        if conv_bias:
            shapes[mixer + "conv1d.bias"] = (channels,)
        if bias:
            shapes.update({mixer + "in_proj.bias": (2 * channels,), mixer + "out_proj.bias": (width,)})
    return shapes


def write(directory, tokens, logits, decays, reference=TWIN):
    case.write(directory, reference=reference, tokens=tokens, logits=logits, dtypes=("float64", "float32"),
               transitions=by_layer("mamba", decays))


def make_state_spaces(directory, rng, *, expand=2, rank=None, taps=4, layers=2, **options):
    """pytorch_model.bin beside a config.json without model_type, as mamba_ssm's save_pretrained writes them."""
    width, order, vocabulary, embedding = 2 * int(rng.integers(8, 20)), int(rng.integers(3, 10)), 48, "backbone.embedding.weight"
    channels = int(expand * width)
    rms, tied = options.get("rms", True), options.get("tied", True)
    weights = draw(rng, shapes_of(embedding, vocabulary, width, layers, channels, order, rank or math.ceil(width / 16), taps,
                                  **options))
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    attending, attn_cfg = options.get("attending", []), options.get("attn_cfg", {})
    logits, decays = twin(double(weights), tokens, layers, embedding, rms, 1e-5, attending, attn_cfg)
    ssm_cfg = {"d_state": order, "expand": expand, "d_conv": taps}
    if rank:
        ssm_cfg["dt_rank"] = rank
    for name, key, default in [("bias", "bias", False), ("conv_bias", "conv_bias", True)]:
        if options.get(key, default) != default:
            ssm_cfg[name] = not default
    config = {"d_model": width, "n_layer": layers, "vocab_size": vocabulary - 3, "ssm_cfg": ssm_cfg, "rms_norm": rms,
              "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8, "tie_embeddings": tied,
              "attn_layer_idx": attending, "attn_cfg": attn_cfg, "d_intermediate": options.get("network", 0)}
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    if tied:
        weights["lm_head.weight"] = weights[embedding]
    save_torch(weights, checkpoint / "pytorch_model.bin")
    (checkpoint / "config.json").write_text(json.dumps(config))
    write(directory, tokens, logits, decays)


def make_fla(directory, rng, **options):
    """As fla's MambaForCausalLM saves it: transformers' names of weights, its own names of settings."""
    width, order, rank, taps, layers, vocabulary, embedding = 2 * int(rng.integers(8, 20)), int(rng.integers(3, 10)), 3, 4, 2, \
        48, "backbone.embeddings.weight"
    tied = options.get("tied", False)
    weights = draw(rng, shapes_of(embedding, vocabulary, width, layers, 2 * width, order, rank, taps, **{"tied": tied}))
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    logits, decays = twin(double(weights), tokens, layers, embedding, True, 1e-3)
    config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": vocabulary, "hidden_size": width,
              "state_size": order, "num_hidden_layers": layers, "norm_eps": 1e-3, "expand": 2, "conv_kernel": taps,
              "use_bias": False, "use_conv_bias": True, "hidden_act": "silu", "initializer_range": 0.02,
              "residual_in_fp32": False, "dt_rank": rank, "dt_scale": 1.0, "dt_min": 0.001, "dt_max": 0.1,
              "dt_init_scheme": "random", "dt_init_floor": 1e-4, "rescale_prenorm_residual": False, "use_cache": True,
              "fuse_norm": True, "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False, "use_l2warp": False,
              "tie_word_embeddings": tied, "intermediate_size": 2 * width}
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    (checkpoint / "config.json").write_text(json.dumps(config))
    write(directory, tokens, logits, decays, FLA_TWIN)


mamba = functools.partial(make, module=modeling_mamba, config=transformers.MambaConfig, model=transformers.MambaForCausalLM)
falcon = functools.partial(make, module=modeling_falcon_mamba, config=transformers.FalconMambaConfig,
                           model=transformers.FalconMambaForCausalLM)

CASES = {
    "mamba/huggingface/untied_rank": functools.partial(mamba, state_size=6, conv_kernel=3, time_step_rank=5,
                                                       tie_word_embeddings=False),
    "mamba/huggingface/plain": functools.partial(mamba, state_size=16),
    "mamba/huggingface/biases": functools.partial(mamba, state_size=3, use_bias=True, use_conv_bias=False, expand=3),
    # Shorter than the convolution.
    "mamba/huggingface/short": functools.partial(mamba, steps=3, state_size=4, layer_norm_epsilon=1e-3, residual_in_fp32=False),
    "mamba/state-spaces/plain": make_state_spaces,
    "mamba/state-spaces/options": functools.partial(make_state_spaces, expand=1.5, rank=3, taps=3, rms=False, bias=True,
                                                    conv_bias=False, tied=False),
    "mamba/state-spaces/attention": functools.partial(make_state_spaces, layers=3, attending=[0, 2], attn_cfg=ATTENTION, network=100),
    "mamba/fla/plain": make_fla,
    "mamba/fla/tied": functools.partial(make_fla, tied=True),
    "falcon-mamba/huggingface/plain": functools.partial(falcon, state_size=6),
    "falcon-mamba/huggingface/options": functools.partial(falcon, state_size=4, mixer_rms_eps=1e-2, time_step_rank=3,
                                                          tie_word_embeddings=False, conv_kernel=2),
}
