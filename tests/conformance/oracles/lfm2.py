"""LFM2 and LFM2-MoE against Hugging Face transformers, in float64: its own classes with their convolutions, attention and experts."""

import functools
import json

import numpy as np
import torch
import transformers
from transformers.models.lfm2 import modeling_lfm2
from transformers.models.lfm2_moe import modeling_lfm2_moe

import case
import hugging_face

LAYER_TYPES = {"C": "conv", "A": "full_attention"}


def forgetful(convolution, width):
    """λ = 0 of every channel, of a module that answers a step for the last time as many steps later as its register holds; None of
    one whose single tap keeps nothing."""
    taps = convolution.conv_kernel_size
    x = torch.randn(1, 2 * taps + 1, width)
    kicked = x.clone()
    kicked[:, 0] = torch.randn(width)
    answers = (convolution(x) - convolution(kicked)).abs().amax((0, 2)) > 1e-12
    assert answers[:taps].all() and not answers[taps:].any(), answers
    register = np.eye(taps - 1, k=-1)
    assert not np.linalg.matrix_power(register, taps - 1).any()
    return case.log_magnitude(np.full((width, 1), -np.inf)) if taps > 1 else None


def make(directory, rng, *, kinds, experts=0, steps=None, stacked=False, **settings):
    """kinds: of each layer, C of a convolution or A of attention."""
    modeling, name = (modeling_lfm2_moe, "Lfm2Moe") if experts else (modeling_lfm2, "Lfm2")
    networks = {"intermediate_size": int(rng.integers(40, 90)), "block_multiple_of": 8}
    if experts:
        networks = {"intermediate_size": int(rng.integers(20, 40)), "num_experts": experts, "num_experts_per_tok": 2,
                    "moe_intermediate_size": int(rng.integers(10, 30)), "num_dense_layers": 1}
    config = getattr(transformers, name + "Config")(**dict(
        vocab_size=int(rng.integers(30, 60)), hidden_size=8 * int(rng.integers(2, 6)), num_hidden_layers=len(kinds),
        layer_types=[LAYER_TYPES[kind] for kind in kinds], num_attention_heads=4, num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0}) | networks | settings)
    with hugging_face.in_float64(), torch.no_grad():
        model, inputs = getattr(transformers, name + "ForCausalLM")(config), []
        for layer in [*model.model.layers, model.model.embedding_norm]:
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].numpy()))
        for key, parameter in model.named_parameters():
            if key.endswith("conv.conv.weight"):  # as drawn, they are near 0
                parameter.copy_(0.5 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith("expert_bias"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
        with hugging_face.recorded_attention(modeling) as scores:
            tokens, logits = hugging_face.run(directory, rng, model, steps or int(rng.integers(50, 90)))
        if stacked:
            model.save_pretrained(directory / "checkpoint", save_original_format=False)
        transitions = {}
        for layer, kind in enumerate(kinds):
            if kind == "A":
                transitions[f"layers.{layer}.attention"] = case.softmax(scores.pop(0))
            elif (found := forgetful(model.model.layers[layer].conv, config.hidden_size)) is not None:
                transitions[f"layers.{layer}.convolution"] = found
    assert not scores
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions=transitions, layer_inputs=inputs,
               dtypes=("float64", "float32"))


def as_published(directory, rng, bases=("rope_theta", "theta"), **settings):
    """The same with config.json in the spelling of the models of the hub, which says nothing of some defaults."""
    make(directory, rng, **settings)
    path = directory / "checkpoint" / "config.json"
    config = json.loads(path.read_text())
    types, rotary = config.pop("layer_types"), config.pop("rope_parameters")
    config |= {"block_ff_dim": config.pop("intermediate_size"), **dict.fromkeys(bases, rotary["rope_theta"]),
               "full_attn_idxs": [layer for layer, kind in enumerate(types) if kind == "full_attention"],
               "tie_embedding": config.pop("tie_word_embeddings"), "block_dim": config["hidden_size"], "block_use_swiglu": True,
               "use_pos_enc": True}
    path.write_text(json.dumps(config))


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0, "original_max_position_embeddings": 32}

CASES = {
    "lfm2/huggingface/hybrid": functools.partial(make, kinds="CCAC"),
    "lfm2/huggingface/options": functools.partial(
        make, kinds="AC", num_key_value_heads=4, conv_bias=True, conv_L_cache=4, block_ffn_dim_multiplier=1.3, norm_eps=1e-3,
        tie_word_embeddings=False, rope_parameters=YARN, max_position_embeddings=128),
    "lfm2/huggingface/as_published": functools.partial(as_published, kinds="CAC", tie_word_embeddings=False),
    "lfm2/huggingface/authors_base": functools.partial(as_published, kinds="CA", bases=("theta",)),
    "lfm2/huggingface/stated_width": functools.partial(make, kinds="CA", num_key_value_heads=1, block_auto_adjust_ff_dim=False,
                                                       conv_L_cache=2, steps=3),
    "lfm2/huggingface/single_tap": functools.partial(make, kinds="CA", conv_L_cache=1),
    "lfm2/huggingface/experts": functools.partial(make, kinds="CACA", experts=6, routed_scaling_factor=1.5),
    "lfm2/huggingface/stacked_experts": functools.partial(make, kinds="CAC", experts=4, stacked=True, use_expert_bias=False,
                                                          norm_topk_prob=False, conv_bias=True),
}
