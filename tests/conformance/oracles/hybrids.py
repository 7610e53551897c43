"""Hybrids of state-space layers and attention against Hugging Face transformers, in float32: its scans cast to float32 whatever
the model's dtype.

Of transformers 5.23 two things are set right in the models it makes: Zamba2 and Nemotron-H clamp Δ from below by time_step_min,
which the kernels that the published models were trained with do not (0.001 is where Δ's bias is drawn from), and which
Nemotron-H's own time_step_limit contradicts. Their other bugs of earlier releases (states of chunks summed over the wrong
axis, issue 47246) are gone; the chunks here are shorter than the sequences, so that they would show."""

import contextlib
import functools
import math

import torch
import transformers
from transformers.models.bamba import modeling_bamba
from transformers.models.falcon_h1 import modeling_falcon_h1
from transformers.models.granitemoehybrid import modeling_granitemoehybrid
from transformers.models.jamba import modeling_jamba
from transformers.models.nemotron_h import modeling_nemotron_h
from transformers.models.zamba2 import modeling_zamba2

import case
import hugging_face
from mamba import recorded_scan


@contextlib.contextmanager
def recorded_mamba2(module):
    """Yields a list to which every call of a modeling module's chunked scan appends Δ·A [B,T,H,1], in float64."""
    scan = module.mamba2_chunk_scan
    seen = []

    def recording(x, dt, a, b, c, *rest, dt_bias=None, dt_limit=(0.0, math.inf), **named):
        step = torch.nn.functional.softplus(dt.double() + dt_bias.double()).clamp(*dt_limit)
        seen.append((step * a.double()).unsqueeze(-1).numpy())
        return scan(x, dt, a, b, c, *rest, dt_bias=dt_bias, dt_limit=dt_limit, **named)

    module.mamba2_chunk_scan = recording
    try:
        yield seen
    finally:
        module.mamba2_chunk_scan = scan


def make(directory, rng, module, model, mixers, recorder=recorded_mamba2, mamba="mamba2", steps=None, **facts):
    """mixers: of each layer, what reports there: a subset of {"mamba", "attention"}."""
    steps = steps or 2 * int(rng.integers(10, 25)) + 1  # odd, and several chunks of 8
    model.set_experts_implementation("eager")  # the grouped product wants sizes in multiples of 16 bytes
    with recorder(module) as scans, hugging_face.recorded_attention(module) as scores:
        tokens, logits = hugging_face.run(directory, rng, model, steps)
    scans, scores, transitions = iter(scans), iter(scores), {}
    for layer, names in enumerate(mixers):
        if "mamba" in names:
            transitions[f"layers.{layer}.{mamba}"] = case.log_magnitude(next(scans))
        if "attention" in names:
            transitions[f"layers.{layer}.attention"] = case.softmax(next(scores))
    assert next(scans, None) is None and next(scores, None) is None
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions=transitions,
               **facts)


def sizes(rng, heads):
    return dict(vocab_size=50, hidden_size=2 * heads * int(rng.integers(2, 5)), num_attention_heads=heads,
                intermediate_size=int(rng.integers(20, 60)))


def jamba(directory, rng, *, layers=4, period=4, offset=2, **settings):
    config = transformers.JambaConfig(**sizes(rng, 4), num_key_value_heads=2, num_hidden_layers=layers, attn_layer_period=period,
                                      attn_layer_offset=offset, mamba_d_state=int(rng.integers(3, 9)), **settings)
    mixers = [["attention"] if layer % period == offset else ["mamba"] for layer in range(layers)]
    with hugging_face.in_float64():
        model = transformers.JambaForCausalLM(config)
        inputs = []
        for layer in model.model.layers:
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach().numpy()))
        model.model.final_layernorm.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach().numpy()))
        make(directory, rng, modeling_jamba, model, mixers, recorded_scan, "mamba", dtypes=("float64", "float32"),
             layer_inputs=inputs)


def mamba2_sizes(rng, heads, groups):
    return dict(mamba_n_heads=heads, mamba_n_groups=groups, mamba_d_state=int(rng.integers(3, 9)), mamba_chunk_size=8)


def bamba(directory, rng, *, attends, layers=3, groups=1, **settings):
    shape = sizes(rng, 4)
    shape["hidden_size"] = 16 * int(rng.integers(1, 4))  # half of a head's dimensions turn in pairs
    config = transformers.BambaConfig(**shape, **mamba2_sizes(rng, 8, groups), num_key_value_heads=2,
                                      num_hidden_layers=layers, attn_layer_indices=attends, **settings)
    make(directory, rng, modeling_bamba, transformers.BambaForCausalLM(config),
         [["attention"] if layer in attends else ["mamba"] for layer in range(layers)])


def granite(directory, rng, *, attends, layers=3, groups=1, **settings):
    config = transformers.GraniteMoeHybridConfig(
        **sizes(rng, 4), **mamba2_sizes(rng, 8, groups), num_key_value_heads=2, num_hidden_layers=layers,
        shared_intermediate_size=int(rng.integers(10, 30)),
        layer_types=["attention" if layer in attends else "mamba" for layer in range(layers)], **settings)
    make(directory, rng, modeling_granitemoehybrid, transformers.GraniteMoeHybridForCausalLM(config),
         [["attention"] if layer in attends else ["mamba"] for layer in range(layers)])


def falcon_h1(directory, rng, *, groups=1, **settings):
    config = transformers.FalconH1Config(**sizes(rng, 4), **mamba2_sizes(rng, 6, groups), num_key_value_heads=2,
                                         num_hidden_layers=2, mamba_d_ssm=6 * int(rng.integers(3, 8)), **settings)
    make(directory, rng, modeling_falcon_h1, transformers.FalconH1ForCausalLM(config), [["mamba", "attention"]] * 2)


def nemotron_h(directory, rng, *, pattern, groups=2, steps=None, **settings):
    kinds = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    config = transformers.NemotronHConfig(
        **sizes(rng, 4), num_key_value_heads=2, head_dim=int(rng.integers(3, 9)), layers_block_type=[kinds[c] for c in pattern],
        ssm_state_size=int(rng.integers(3, 9)), mamba_num_heads=6, mamba_head_dim=int(rng.integers(3, 8)), n_groups=groups,
        chunk_size=8, moe_intermediate_size=int(rng.integers(10, 30)),
        moe_shared_expert_intermediate_size=int(rng.integers(10, 30)), **settings)
    model = transformers.NemotronHForCausalLM(config)
    for layer, kind in zip(model.model.layers, pattern):
        if kind == "M":
            layer.mixer.time_step_limit = tuple(config.time_step_limit)
        if kind == "E":
            layer.mixer.gate.e_score_correction_bias.normal_(0, 0.3)
    make(directory, rng, modeling_nemotron_h, model, [{"M": ["mamba"], "*": ["attention"]}.get(kind, []) for kind in pattern],
         steps=steps)


def zamba2(directory, rng, *, pattern, **settings):
    """pattern: h of a hybrid layer, m of one of Mamba-2 alone."""
    config = transformers.Zamba2Config(
        **sizes(rng, 4), num_hidden_layers=len(pattern), layers_block_type=[{"h": "hybrid", "m": "mamba"}[c] for c in pattern],
        n_mamba_heads=4, mamba_d_state=int(rng.integers(3, 9)), chunk_size=8, adapter_rank=int(rng.integers(2, 5)), **settings)
    model = transformers.Zamba2ForCausalLM(config)
    for module in model.modules():
        if isinstance(module, modeling_zamba2.Zamba2MambaMixer):
            module.time_step_limit = (0.0, math.inf)
    make(directory, rng, modeling_zamba2, model, [["attention", "mamba"] if kind == "h" else ["mamba"] for kind in pattern])


MULTIPLIERS = dict(ssm_multipliers=[0.7, 1.3, 0.5, 2.0, 0.3], ssm_in_multiplier=0.8, ssm_out_multiplier=1.2,
                   attention_in_multiplier=1.1, attention_out_multiplier=0.9, key_multiplier=0.5, mlp_multipliers=[0.7, 1.4],
                   lm_head_multiplier=0.5, embedding_multiplier=2.0)

CASES = {
    "jamba/huggingface/experts": functools.partial(jamba, num_experts=4),
    "jamba/huggingface/dense": functools.partial(jamba, layers=2, period=2, offset=0, num_experts=1, mamba_proj_bias=True,
                                                 mamba_dt_rank=3),
    "jamba/huggingface/one_of_three": functools.partial(jamba, layers=3, period=3, offset=0, num_experts=3, num_experts_per_tok=1,
                                                        expert_layer_period=1, expert_layer_offset=0, mamba_conv_bias=False,
                                                        tie_word_embeddings=True),
    "bamba/huggingface/groups": functools.partial(bamba, attends=[1], groups=2),
    "bamba/huggingface/options": functools.partial(bamba, attends=[0, 2], attention_bias=True, mlp_bias=True,
                                                   mamba_proj_bias=True, mamba_conv_bias=False, time_step_limit=(0.1, 1.5),
                                                   tie_word_embeddings=True),
    "granite-hybrid/huggingface/experts": functools.partial(
        granite, attends=[1], num_local_experts=4, attention_multiplier=0.3, embedding_multiplier=2.0, logits_scaling=3.0,
        residual_multiplier=0.5),
    "granite-hybrid/huggingface/dense_rope": functools.partial(granite, attends=[0], groups=2, num_local_experts=0,
                                                               position_embedding_type="rope", attention_bias=True),
    "granite-hybrid/huggingface/attention_only": functools.partial(granite, attends=[0, 1], layers=2, num_local_experts=3,
                                                                   num_experts_per_tok=1, position_embedding_type="rope"),
    "falcon-h1/huggingface/multipliers": functools.partial(falcon_h1, **MULTIPLIERS),
    "falcon-h1/huggingface/norm_first": functools.partial(falcon_h1, groups=2, mamba_rms_norm=True, projectors_bias=True,
                                                          attention_bias=True, mlp_bias=True, mamba_proj_bias=True),
    "falcon-h1/huggingface/norm_last": functools.partial(falcon_h1, groups=3, mamba_rms_norm=True, mamba_norm_before_gate=False,
                                                         tie_word_embeddings=True, **MULTIPLIERS),
    "nemotron-h/huggingface/experts": functools.partial(nemotron_h, pattern="ME*-M", n_routed_experts=4,
                                                        routed_scaling_factor=1.5),
    "nemotron-h/huggingface/groups_of_experts": functools.partial(nemotron_h, pattern="EM*", groups=3, n_routed_experts=6,
                                                                  n_group=3, topk_group=2, norm_topk_prob=False,
                                                                  residual_in_fp32=True),
    "nemotron-h/huggingface/dense": functools.partial(nemotron_h, pattern="*-M", groups=1, mlp_bias=True, use_bias=True,
                                                      use_conv_bias=False, steps=3),
    "zamba2/huggingface/two_blocks": functools.partial(zamba2, pattern="mhmhhm", num_mem_blocks=2, use_mem_rope=True,
                                                       use_shared_attention_adapter=True, mamba_ngroups=2),
    # Untied word embeddings are left out: transformers then unties the shared blocks, too.
    "zamba2/huggingface/one_block": functools.partial(zamba2, pattern="hmh"),
    "zamba2/huggingface/biases": functools.partial(zamba2, pattern="mh", add_bias_linear=True, num_key_value_heads=2),
}
