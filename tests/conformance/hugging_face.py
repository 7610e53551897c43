"""Models of Hugging Face transformers as oracles: random weights, their own intermediate tensors, their own files."""

import contextlib
import math

import torch
import transformers

import case

REFERENCE = f"transformers {transformers.__version__}"
# The oracles' bugs are those of this release line; another one has others.
assert int(transformers.__version__.split(".")[0]) == 5, transformers.__version__
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@contextlib.contextmanager
def recorded_attention(module, visible=None):
    """Yields a list to which the eager attention of a modeling module appends the log-sum-exps [B,H,T] of the scores that its
    softmax saw, in float64: of the q and k that were handed to it, behind norms and rotary embeddings.

    visible  (call's index, T) -> bool [T,T], which steps each step attends to; by default those before it and itself
    """
    eager = module.eager_attention_forward
    seen = []

    def recording(layer, query, key, value, attention_mask, scaling=None, **kwargs):
        assert scaling is not None
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query.double() @ keys.double().transpose(-1, -2) * scaling
        steps = scores.shape[-1]
        seen_by = torch.ones(steps, steps, dtype=torch.bool).tril() if visible is None else visible(len(seen), steps)
        seen.append(scores.masked_fill(~seen_by, -math.inf).logsumexp(-1).numpy())
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
    vocabulary = model.config.get_text_config().vocab_size
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
        tokens = torch.from_numpy(rng.integers(0, vocabulary, (batch, steps)))
        logits = model(tokens, use_cache=False).logits
    model.save_pretrained(directory / "checkpoint")
    return tokens.numpy(), logits.numpy()


def attention_model(directory, rng, module, model, steps, **facts):
    """A case of a model in which every layer is softmax attention, whose modeling module is `module`."""
    with recorded_attention(module) as seen:
        tokens, logits = run(directory, rng, model, steps)
    assert len(seen) == model.config.num_hidden_layers, len(seen)
    case.write(directory, reference=REFERENCE, tokens=tokens, logits=logits,
               transitions={f"layers.{layer}.attention": case.softmax(lse) for layer, lse in enumerate(seen)}, **facts)
