"""state-spaces/mamba: MambaLMHeadModel in float64, its unfused path with selective_scan_ref, ssd_selective_scan and the norms'
reference functions in place of the kernels; flash_attn's rotary embedding, which its attention takes, is written out plainly. It
runs the checkpoints of its own layout; the one of transformers' older norm is handed to it under its own names. log λ is the
argument of the exponential in selective_scan_ref, of attention that of the scores of what it hands to PyTorch. Needs triton, which
its modules import.
"""

import functools
import sys
from unittest import mock

import torch

from comparison import *
from hugging_face import in_float64

CASES = ["mamba/state-spaces", "mamba2/state-spaces", "mamba2/huggingface/older_norm"]


def load(checkout):
    stand_in("selective_scan_cuda")
    sys.path.insert(0, str(checkout))
    import mamba_ssm
    from mamba_ssm.ops import selective_scan_interface
    from mamba_ssm.ops.triton import layer_norm, layernorm_gated, ssd_combined

    def norm(x, weight, bias, residual=None, is_rms_norm=False, residual_in_fp32=False, prenorm=False, eps=1e-6,
             **options):
        assert not any(options.values()), options
        reference = layer_norm.rms_norm_ref if is_rms_norm else layer_norm.layer_norm_ref
        return reference(x, weight, bias, residual=residual, prenorm=prenorm, eps=eps)

    def scan(*arguments, chunk_size, seq_idx, cu_seqlens, return_final_states, return_varlen_states, **options):
        assert seq_idx is None and cu_seqlens is None and not return_final_states and not return_varlen_states
        return ssd_combined.ssd_selective_scan(*arguments, **options)

    replace("mamba_ssm", RotaryEmbedding=RotaryEmbedding, layer_norm_fn=norm, rms_norm_fn=functools.partial(norm, is_rms_norm=True),
            rmsnorm_fn=layernorm_gated.rms_norm_ref, mamba_chunk_scan_combined=scan,
            selective_scan_fn=selective_scan_interface.selective_scan_ref)
    return mamba_ssm


def configuration(case):
    """That of its own layout, and whether the gated norm spans all groups."""
    config = dict(case.config)
    if "ssm_cfg" in config:
        return config, False
    ssm = {"layer": "Mamba2", "d_state": config["state_size"], "d_conv": config["conv_kernel"], "headdim": config["head_dim"],
           "ngroups": config["n_groups"], "dt_limit": config["time_step_limit"], "bias": config["use_bias"]}
    assert config["layer_norm_epsilon"] == 1e-5  # its own
    return {"d_model": config["hidden_size"], "n_layer": config["num_hidden_layers"], "vocab_size": config["vocab_size"],
            "pad_vocab_size_multiple": 1, "tie_embeddings": config["tie_word_embeddings"], "rms_norm": True,
            "ssm_cfg": ssm}, case.settings["gated_norm_groups"] == 1


def run(mamba_ssm, case):
    config, ungrouped = configuration(case)
    if config["ssm_cfg"].get("layer") == "Mamba2":
        config["ssm_cfg"] = config["ssm_cfg"] | {"use_mem_eff_path": False}
        limit = config["ssm_cfg"].get("dt_limit", (0.0, math.inf))
        # transformers writes infinity as a dictionary.
        config["ssm_cfg"]["dt_limit"] = tuple(float(x["__float__"] if isinstance(x, dict) else x) for x in limit)
    weights = {key.replace("backbone.embeddings.", "backbone.embedding."): value for key, value in case.weights().items()}
    exponents, exp, softmaxes, attend = [], torch.exp, [], torch.nn.functional.scaled_dot_product_attention

    def recording(x):
        if x.ndim == 4:
            exponents.append(x)
        return exp(x)

    def recording_attention(q, k, v, is_causal, scale):
        assert is_causal
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        softmaxes.append(of_softmax(scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)))
        return attend(q, k, v, is_causal=True, scale=scale)

    with in_float64():
        from mamba_ssm.models.config_mamba import MambaConfig
        model = mamba_ssm.MambaLMHeadModel(MambaConfig(**config)).double().eval()
        if config["tie_embeddings"]:
            weights["lm_head.weight"] = weights["backbone.embedding.weight"]
        model.load_state_dict(weights)
        for module in model.modules():
            if ungrouped and getattr(module, "group_size", None):
                module.group_size = None
        with (mock.patch.object(torch, "exp", recording),
              mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", recording_attention)):
            logits = model(case.inputs()).logits
    attention = [site for site in case.sites() if site.endswith("attention")]
    found = {site: {"log_magnitude": values} for site, values in zip(attention, softmaxes, strict=True)}
    others = [site for site in case.sites() if site not in attention]
    for site, x in zip(others, exponents, strict=True):  # [B,channels,T,N]
        x = x.transpose(1, 2)
        if site.endswith("mamba2"):
            x = x.unflatten(2, (case.expected[site + ".log_magnitude"].shape[2], -1)).flatten(3)
        found[site] = {"log_magnitude": x}
    return logits, found


if __name__ == "__main__":
    main(load, run)
