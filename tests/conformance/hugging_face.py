"""Models of Hugging Face transformers as oracles: random weights, their own intermediate tensors, their own files."""

import contextlib
import math
import sys
from unittest import mock

import torch
import transformers

import case

REFERENCE = f"transformers {transformers.__version__}"
# The oracles' bugs are those of this release line; another one has others.
assert int(transformers.__version__.split(".")[0]) == 5, transformers.__version__
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@contextlib.contextmanager
def in_float64():
    """Models that are made and run inside compute in float64 throughout: norms, rotary embeddings and softmax, which transformers
    computes in float32 whatever the model's dtype, call it by names that mean float64 meanwhile."""
    default = torch.get_default_dtype()
    with (mock.patch.object(torch, "float32", torch.float64), mock.patch.object(torch, "float", torch.float64),
          mock.patch.object(torch.Tensor, "float", torch.Tensor.double)):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


@contextlib.contextmanager
def recorded_attention(module, visible=None):
    """Yields a list to which the eager attention of a modeling module appends the log-sum-exps [B,H,T] of the scores that its
    softmax saw, in float64: of the q and k that were handed to it, behind norms and rotary embeddings, with its own mask, cap and
    sinks.

    visible  (call's index, T) -> bool [T,T], which steps each step attends to; by default those of the mask
    """
    eager = module.eager_attention_forward
    seen = []

    def recording(layer, query, key, value, attention_mask, scaling=None, **kwargs):
        assert scaling is not None
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query.double() @ keys.double().transpose(-1, -2) * scaling
        if kwargs.get("softcap") is not None:
            scores = torch.tanh(scores / kwargs["softcap"]) * kwargs["softcap"]
        if visible is not None:
            seen_by = visible(len(seen), scores.shape[-1])
        else:
            assert attention_mask is not None and attention_mask.is_floating_point()
            seen_by = attention_mask == 0
        scores = scores.masked_fill(~seen_by, -math.inf)
        if hasattr(layer, "sinks"):
            sinks = layer.sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], -1)
        seen.append(scores.logsumexp(-1).numpy())
        return eager(layer, query, key, value, attention_mask, scaling=scaling, **kwargs)

    module.eager_attention_forward = recording
    try:
        yield seen
    finally:
        module.eager_attention_forward = eager


def run(directory, rng, model, steps, batch=2, deviation=0.15):
    """Moves every weight away from its initial value (biases from 0, norms from 1), runs random tokens through `model` and
    saves it. Returns tokens [B,T] and logits [B,T,V]."""
    model.eval()
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    vocabulary = model.config.get_text_config().vocab_size
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
        tokens = torch.from_numpy(rng.integers(0, vocabulary, (batch, steps)))
        logits = model(tokens, use_cache=False).logits
    model.save_pretrained(directory / "checkpoint")
    return tokens.numpy(), logits.numpy()


def float64_attention_model(directory, rng, model_class, config, steps, **facts):
    """A case of a model in which every layer is softmax attention, in float64. A model that has run longer sequences before may
    keep their angles (rotary scalings that depend on the length), so this one is new."""
    module = sys.modules[model_class.__module__]
    with in_float64():
        attention_model(directory, rng, module, model_class(config), steps, dtypes=("float64", "float32"), **facts)


def attention_model(directory, rng, module, model, steps, **facts):
    """A case of a model in which every layer is softmax attention, whose modeling module is `module`."""
    with recorded_attention(module) as seen:
        tokens, logits = run(directory, rng, model, steps)
    assert len(seen) == model.config.num_hidden_layers, len(seen)
    case.write(directory, reference=REFERENCE, tokens=tokens, logits=logits,
               transitions={f"layers.{layer}.attention": case.softmax(lse) for layer, lse in enumerate(seen)}, **facts)
