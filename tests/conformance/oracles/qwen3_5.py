"""Qwen3.5 against Hugging Face transformers, in float64: its own classes of text, and of text in a model that also reads images."""

import functools

import torch
import transformers
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

import case
import hugging_face
from qwen3_next import LAYER_TYPES, forget_less, recorded_delta_rule, transitions_of

VISION = dict(depth=1, hidden_size=16, intermediate_size=20, num_heads=2, patch_size=4, num_position_embeddings=16)


def make(directory, rng, *, kinds, experts=0, images=False, steps=None, stacked=False, groups=2, key_heads=2, **settings):
    """kinds: of each layer, L of Gated DeltaNet or A of attention; images: as the text part of a model that reads them."""
    modeling, name = (modeling_qwen3_5_moe, "Qwen3_5Moe") if experts else (modeling_qwen3_5, "Qwen3_5")
    width = 4 * int(rng.integers(5, 9))
    networks = {"intermediate_size": int(rng.integers(20, 40))}
    if experts:
        networks = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": int(rng.integers(10, 30)),
                    "shared_expert_intermediate_size": int(rng.integers(10, 30))}
    config = getattr(transformers, name + "TextConfig")(**dict(
        vocab_size=int(rng.integers(30, 60)), hidden_size=width, num_hidden_layers=len(kinds), num_attention_heads=4,
        layer_types=[LAYER_TYPES[kind] for kind in kinds], num_key_value_heads=groups, head_dim=8 * int(rng.integers(1, 4)),
        linear_num_key_heads=key_heads, linear_num_value_heads=4, linear_key_head_dim=2 * int(rng.integers(2, 7)),
        linear_value_head_dim=8 * int(rng.integers(1, 3))) | networks | settings)
    kind = "ForCausalLM"
    if images:
        kind = "ForConditionalGeneration"
        config = getattr(transformers, name + "Config")(
            text_config=config.to_dict(), vision_config=VISION | {"out_hidden_size": width},
            tie_word_embeddings=config.tie_word_embeddings)
    with hugging_face.in_float64(), torch.no_grad():
        model = getattr(transformers, name + kind)(config)
        text, inputs = model.model.language_model if images else model.model, []
        for layer in [*text.layers, text.norm]:
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].numpy()))
        forget_less(model)
        with recorded_delta_rule(modeling) as rules, hugging_face.recorded_attention(modeling) as scores:
            tokens, logits = hugging_face.run(directory, rng, model, steps or int(rng.integers(70, 100)))
        if stacked:
            model.save_pretrained(directory / "checkpoint", save_original_format=False)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits,
               transitions=transitions_of(kinds, rules, scores), layer_inputs=inputs, dtypes=("float64", "float32"))


# As published: a plane of positions for time, height and width each, which text has the same number in.
PLANES = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5, "mrope_interleaved": True,
          "mrope_section": [2, 1, 1]}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}

CASES = {
    "qwen3_5/huggingface/hybrid": functools.partial(make, kinds="LLLA"),
    "qwen3_5/huggingface/images": functools.partial(make, kinds="LA", images=True, rope_parameters=PLANES),
    "qwen3_5/huggingface/options": functools.partial(
        make, kinds="AL", key_heads=4, groups=4, attention_bias=True, linear_conv_kernel_dim=3, rope_parameters=PLANES,
        tie_word_embeddings=True),
    "qwen3_5/huggingface/experts": functools.partial(make, kinds="LALA", experts=4, groups=1, key_heads=1, rope_parameters=YARN,
                                                     max_position_embeddings=128),
    "qwen3_5/huggingface/stacked_experts": functools.partial(make, kinds="LA", experts=5, stacked=True),
    "qwen3_5/huggingface/images_and_experts": functools.partial(make, kinds="AL", experts=4, images=True, stacked=True,
                                                                tie_word_embeddings=True, steps=3),
}
