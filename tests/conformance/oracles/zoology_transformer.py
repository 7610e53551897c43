"""zoology's language model with softmax attention: a float64 model written from its definition (HazyResearch/zoology at d88d6f5,
zoology/model.py and zoology/mixers/{attention,mlp}.py), with which held_to/hazyresearch_zoology.py compares it: logits with
seeds 1 to 5 differ by 3.1e-15 of the largest at most."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

import case

TWIN = case.held_to("float64 PyTorch model (oracles/zoology_transformer.py)", "HazyResearch/zoology d88d6f5", "4e-15")


def layer_norm(x, weights, name):
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-5)


def affine(x, weights, name):
    return F.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))


def forward(weights, layers, heads, tokens):
    """Returns logits [B,T,V] and the log-sum-exps [B,H,T] of every layer."""
    steps = tokens.shape[1]
    hidden = weights["backbone.embeddings.word_embeddings.weight"][tokens]
    positions = weights.get("backbone.embeddings.position_embeddings.weight")
    if positions is not None:
        hidden = hidden + positions[:steps]
    residual, log_sum_exps = 0, []
    for layer in range(layers):
        name = f"backbone.layers.{layer}."
        residual = residual + hidden
        qkv = affine(layer_norm(residual, weights, name + "norm1"), weights, name + "sequence_mixer.Wqkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        scores = scores + torch.full((steps, steps), -10000.0, dtype=scores.dtype).triu(1)
        log_sum_exps.append(scores.logsumexp(-1).numpy())
        attended = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(-2)
        residual = residual + affine(attended, weights, name + "sequence_mixer.out_proj")
        hidden = layer_norm(residual, weights, name + "norm2")
        mixer = name + "state_mixer."
        if mixer + "fc3.weight" in weights:
            hidden = affine(affine(hidden, weights, mixer + "fc1") * F.gelu(affine(hidden, weights, mixer + "fc2")), weights, mixer + "fc3")
        elif mixer + "fc1.weight" in weights:
            hidden = affine(F.gelu(affine(hidden, weights, mixer + "fc1")), weights, mixer + "fc2")
    return layer_norm(residual + hidden, weights, "backbone.ln_f") @ weights["lm_head.weight"].T, log_sum_exps


def random_weights(rng, width, layers, positions, state_mixer, hidden, bias, tied, vocabulary=50):
    shapes = {"backbone.embeddings.word_embeddings.weight": (vocabulary, width), "backbone.ln_f.weight": (width,),
              "backbone.ln_f.bias": (width,)}
    if positions:
        shapes["backbone.embeddings.position_embeddings.weight"] = (positions, width)
    for layer in range(layers):
        name = f"backbone.layers.{layer}."
        linear = {"sequence_mixer.Wqkv": (3 * width, width), "sequence_mixer.out_proj": (width, width)}
        if state_mixer != "Identity":
            linear |= {"state_mixer.fc1": (hidden, width)}
            linear |= ({"state_mixer.fc2": (hidden, width), "state_mixer.fc3": (width, hidden)} if state_mixer == "GLU" else
                       {"state_mixer.fc2": (width, hidden)})
        for rest, shape in linear.items():
            shapes[f"{name}{rest}.weight"] = shape
            if bias or rest != "sequence_mixer.Wqkv":
                shapes[f"{name}{rest}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}{norm}.weight": (width,), f"{name}{norm}.bias": (width,)}
    weights = {key: torch.from_numpy(rng.normal(float("norm" in key and key.endswith("weight") or key.endswith("ln_f.weight")), 0.3, shape))
               for key, shape in shapes.items()}
    words = weights["backbone.embeddings.word_embeddings.weight"]
    weights["lm_head.weight"] = words if tied else torch.from_numpy(rng.normal(0, 0.3, words.shape))
    return weights


def make(directory, rng, heads, state_mixer="MLP", hidden_mult=4, positions=64, bias=True, tied=True):
    width, layers = heads * int(rng.integers(4, 12)), 2
    weights = random_weights(rng, width, layers, positions, state_mixer, width * hidden_mult, bias, tied)
    torch.save(weights, directory / "model.pt")
    tokens = rng.integers(0, 50, (2, int(rng.integers(20, 60))))
    logits, log_sum_exps = forward(weights, layers, heads, torch.from_numpy(tokens))
    # What its configuration, a YAML file elsewhere, says.
    settings = {"d_model": width, "n_layers": layers, "max_position_embeddings": positions, "vocab_size": 50,
                "learnable_word_embeddings": tied,
                "sequence_mixer": {"name": "zoology.mixers.attention.MHA", "kwargs": {"num_heads": heads, "bias": bias, "dropout": 0.1}},
                "state_mixer": {"name": "torch.nn.Identity", "kwargs": {}} if state_mixer == "Identity" else
                               {"name": f"zoology.mixers.mlp.{state_mixer}", "kwargs": {"hidden_mult": hidden_mult}}}
    case.write(directory, reference=TWIN,
               tokens=tokens, logits=logits.numpy(), checkpoint="model.pt", settings=settings, dtypes=("float64", "float32"),
               transitions={f"layers.{layer}.attention": case.softmax(lse) for layer, lse in enumerate(log_sum_exps)})


CASES = {
    "zoology-transformer/zoology/mlp": functools.partial(make, heads=3),
    "zoology-transformer/zoology/one_head_no_state_mixer": functools.partial(make, heads=1, state_mixer="Identity"),
    "zoology-transformer/zoology/glu_untied": functools.partial(make, heads=2, state_mixer="GLU", hidden_mult=2, positions=0, bias=False,
                                                                tied=False),
}
