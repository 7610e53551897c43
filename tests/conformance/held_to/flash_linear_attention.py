"""fla-org/flash-linear-attention: its whole models in float64, with its own reference functions in place of its kernels: those
of the norms, rotary embeddings, shifts, gates and, as naive recurrences, of its operators. Written out where it has none:
SwiGLU, the short convolution, the norm of keys, flash attention.

Log-decays are what the operators are given; Λ of the delta rules and of RWKV-7 is what one step of the naive recurrence does to
the identity; λ of RetNet and of normalised linear attention what theirs do to ones. Of Mamba it is the path without kernels,
Δ·A as it goes into an exponential or a cumulative sum; that of Mamba-2 repeats B and C of several groups in another order than
the kernels, which is put right. Needs triton from 3.3 on, which its modules import (3.5 does; 3.9 refuses what they ask of it).
"""

import contextlib
import functools
import json
import sys
from unittest import mock

import torch
import torch.nn.functional as F

from comparison import *
from hugging_face import in_float64

CASES = ["retnet/fla", "gla/fla", "hgrn/fla", "hgrn2/fla", "delta_net/fla", "gated_deltanet/fla", "kda/fla", "linear_attn/fla",
         "rwkv6/fla", "rwkv7/fla", "mamba/fla", "mamba2/fla"]

seen = []  # what the layers' transitions were, in order


def first_dimensions(function, *tensors, **options):
    """function, which wants [B,H,T,...], of [B,T,H,...]."""
    out, state = function(*(x.transpose(1, 2) for x in tensors), **options)
    return out.transpose(1, 2), state


def step_matrices(recurrence, k, *others):
    """What a step of recurrence(q, k, v, *others, initial_state) -> (output, state), all [B,T,H,...], does to the identity where
    it writes nothing: [B,T,H,K,K]."""
    batch, steps, count, size = k.shape
    single = lambda x: x.reshape(batch * steps, 1, *x.shape[2:])
    identity = torch.eye(size).expand(batch * steps, count, size, size).clone()
    nothing = torch.zeros(batch * steps, 1, count, size)
    state = recurrence(nothing, single(k), nothing, *(single(x) for x in others), identity)[1]
    return state.reshape(batch, steps, count, size, size)


def load(checkout):
    sys.path.insert(0, str(checkout))
    import fla.models
    from fla.modules import activations, layernorm, layernorm_gated, rotary, token_shift
    from fla.ops.delta_rule.naive import delta_rule_recurrence
    from fla.ops.gated_delta_rule import gate
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
    from fla.ops.gla.naive import naive_recurrent_gla
    from fla.ops.hgrn.naive import naive_recurrent_hgrn
    from fla.ops.kda import gate as kda_gate
    from fla.ops.kda.naive import naive_recurrent_kda
    from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
    from fla.ops.retention.naive import naive_retention
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
    from fla.ops.rwkv7 import fused_addcmul, fused_k_update, gate_output_correction

    # --- modules ---

    def norm(reference, x, weight, bias, residual=None, eps=1e-5, prenorm=False, residual_in_fp32=False, **options):
        return reference(x, torch.ones(x.shape[-1]) if weight is None else weight, bias, residual=residual, eps=eps,
                         prenorm=prenorm, **options)

    def group_norm(x, weight, bias, residual=None, eps=1e-5, prenorm=False, residual_in_fp32=False, is_rms_norm=False,
                   num_groups=1):
        return layernorm.group_norm_ref(x, weight, bias, num_groups, residual=residual, eps=eps, is_rms_norm=is_rms_norm,
                                        prenorm=prenorm)

    rms_norm = functools.partial(norm, layernorm.rms_norm_ref)

    def rms_norm_linear(x, weight, bias, linear_weight, linear_bias, **options):
        return F.linear(rms_norm(x, weight, bias, **options), linear_weight, linear_bias)

    def rms_norm_gated(x, g, weight, bias, activation="swish", residual=None, prenorm=False, residual_in_fp32=False, eps=1e-6):
        assert residual is None and not prenorm
        gates = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}
        return rms_norm(x, weight, bias, eps=eps) * gates[activation](g)

    def l2norm(x, eps=1e-6, output_dtype=None):
        return x / torch.sqrt(x.square().sum(-1, keepdim=True) + eps)

    def causal_conv1d(x, weight, bias=None, activation=None, residual=None, initial_state=None, **_):
        assert residual is None and initial_state is None
        y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=weight.shape[1] - 1, groups=len(weight))
        y = y[..., :x.shape[1]].transpose(1, 2)
        return (F.silu(y) if activation in ("silu", "swish") else y), None

    def rotary_embedding(x, cos, sin, interleaved=False, inplace=False, seqlen_offsets=0, cu_seqlens=None, chunk_indices=None):
        assert seqlen_offsets == 0 and cu_seqlens is None
        return rotary.rotary_embedding_ref(x, cos[:x.shape[1]], sin[:x.shape[1]], interleaved)

    def shift(x, cu_seqlens=None, cache=None, output_cache=False, **_):
        assert cache is None
        delta = token_shift.token_shift_ref(x, cu_seqlens)
        return (delta, x[:, -1]) if output_cache else delta

    def flash_attn_func(q, k, v, causal, window_size):
        assert causal
        k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
        age = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
        hidden = (age < 0) | ((age > window_size[0]) if window_size[0] >= 0 else False)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(hidden, -torch.inf)
        seen.append({"log_magnitude": of_softmax(scores)})
        return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)

    # --- operators ---

    def retention(q, k, v, **_):
        ones = torch.ones(1, q.shape[2], 2, 1)
        decayed = naive_retention(ones, ones, torch.tensor([1.0, 0.0])[:, None].expand_as(ones))[0, :, :, 0]
        seen.append({"log_magnitude": (decayed[:, 1] / decayed[:, 0]).log()[:, None]})
        return naive_retention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2), None

    def gla(q, k, v, g=None, gk=None, **_):
        seen.append({"log_magnitude": gk if g is None else g})
        return naive_recurrent_gla(q, k, v, gk if g is None else g)

    def hgrn(x, g, **_):
        seen.append({"log_magnitude": g[..., None]})
        return naive_recurrent_hgrn(x, g)

    def rwkv6(r, k, v, w, u, scale, **_):
        seen.append({"log_magnitude": w})
        recurrence = functools.partial(naive_recurrent_rwkv6, u=u, scale=scale)
        return first_dimensions(recurrence, r, k, v, w)

    def delta_rule(q, k, v, beta, use_qk_l2norm_in_kernel, **_):
        def recurrence(q, k, v, beta, initial_state=None):
            return first_dimensions(delta_rule_recurrence, q, k, v, beta, initial_state=initial_state)

        q, k = (l2norm(x) if use_qk_l2norm_in_kernel else x for x in (q, k))
        seen.append({"matrices": step_matrices(recurrence, k, beta)})
        return recurrence(q, k, v, beta)

    def writing(beta, allow_neg_eigval):
        return beta.sigmoid() * (2 if allow_neg_eigval else 1)

    def gated_delta_rule(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, **_):
        def recurrence(*arguments):
            return naive_recurrent_gated_delta_rule(*arguments[:5], initial_state=arguments[5] if len(arguments) > 5 else None,
                                                    output_final_state=True)

        g = gate.naive_gdn_gate(g, A_log, dt_bias, output_dtype=torch.float64)
        q, k = (l2norm(x).repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (q, k))
        beta = writing(beta, allow_neg_eigval)
        seen.append({"matrices": step_matrices(recurrence, k, beta, g)})
        return recurrence(q, k, v, beta, g)

    def kda(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, lower_bound=None, **_):
        def recurrence(*arguments):
            return naive_recurrent_kda(*arguments[:5], initial_state=arguments[5] if len(arguments) > 5 else None,
                                       output_final_state=True)

        if lower_bound is None:
            g = kda_gate.naive_kda_gate(g, A_log, dt_bias, output_dtype=torch.float64)
        else:
            g = kda_gate.naive_kda_lowerbound_gate(g, A_log, dt_bias, lower_bound, output_dtype=torch.float64)
        q, k, beta = l2norm(q), l2norm(k), writing(beta, allow_neg_eigval)
        # Of every head of values: those of keys are shared by several.
        shared = k.repeat_interleave(v.shape[2] // k.shape[2], 2)
        seen.append({"matrices": step_matrices(recurrence, shared, g, beta)})
        return recurrence(q, k, v, g, beta)

    def rwkv7(r, w, k, v, a, b, scale, **_):
        def recurrence(q, k, v, alpha, beta, gk, initial_state=None):
            return first_dimensions(dplr_recurrence, q, k, v, alpha, beta, gk, initial_state=initial_state)

        seen.append({"matrices": step_matrices(recurrence, torch.zeros_like(k), a, b, w)})
        return recurrence(r * scale * math.sqrt(r.shape[-1]), k, v, a, b, w)

    def rwkv7_with_keys(r, w, k, v, kk, a, scale, **_):
        return rwkv7(r, w, k, v, -kk, kk * a, scale)

    def linear_attention(q, k, v, normalize, **_):
        if normalize:
            total = naive_recurrent_linear_attn(q, k, torch.ones_like(v[..., :1]))[0] + 1e-10
            seen.append({"log_magnitude": total[:, :-1].log() - total[:, 1:].log()})
        else:
            seen.append({"log_magnitude": torch.zeros(q.shape[2], 1)})
        return naive_recurrent_linear_attn(q, k, v, normalize=normalize)

    operators = {"retention": retention, "gla": gla, "hgrn": hgrn, "rwkv6": rwkv6, "delta_rule": delta_rule,
                 "gated_delta_rule": gated_delta_rule, "kda": kda, "linear_attn": linear_attention}
    replace("fla", layer_norm=functools.partial(norm, layernorm.layer_norm_ref), rms_norm=rms_norm, group_norm=group_norm,
            rms_norm_linear=rms_norm_linear, rms_norm_gated=rms_norm_gated, l2norm=l2norm, l2_norm=l2norm,
            rmsnorm_fn=layernorm_gated.rms_norm_ref, causal_conv1d=causal_conv1d, rotary_embedding=rotary_embedding,
            token_shift=shift, flash_attn_func=flash_attn_func,
            swiglu=lambda x, y: F.silu(x) * y, swish=F.silu,
            swiglu_linear=lambda x, y, weight, bias: F.linear(F.silu(x) * y, weight, bias),
            fused_addcmul_rwkv7=fused_addcmul.torch_addcmul_rwkv7, fused_k_rwkv7=fused_k_update.k_update_ref,
            gate_output_correction=gate_output_correction.gate_output_correction_ref, chunk_rwkv7=rwkv7,
            fused_mul_recurrent_rwkv7=rwkv7_with_keys,
            **{f"{mode}_{name}": operator for name, operator in operators.items()
               for mode in ("chunk", "fused_chunk", "fused_recurrent")})
    activations.ACT2FN |= {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid, "sqrelu": lambda x: F.relu(x).square()}
    return fla


def translated(weights, shapes):
    """Earlier releases' checkpoints: SwiGLU's two projections as one, RWKV-7's shifts as one, and other shapes of the same."""
    found = {}
    for key, value in weights.items():
        if key.endswith("mlp.gate_proj.weight") and key in shapes and len(value) == 2 * shapes[key][0]:
            found[key], found[key.replace("gate_proj", "up_proj")] = value.chunk(2)
        elif key.endswith(".attn.x_x"):
            found |= {key[:-1] + letter: row for letter, row in zip("rwkvag", value)}
        else:
            found[key] = value
    return {key: value.reshape(shapes[key]) if key in shapes else value for key, value in found.items()}


@contextlib.contextmanager
def recorded_mamba(steps):
    """While entered, Mamba's Δ·A is kept, and groups are repeated as the kernels do."""
    exp, cumsum, repeat = torch.exp, torch.cumsum, torch.Tensor.repeat

    def recording_exp(x):
        if x.ndim == 4 and x.shape[2] == steps:  # [B,channels,T,N]
            seen.append({"log_magnitude": x.transpose(1, 2)})
        return exp(x)

    def recording_cumsum(x, dim):
        if x.ndim == 4 and dim == -1:  # [B,H,chunks,chunk]
            seen.append({"log_magnitude": x.flatten(2)[..., :steps].transpose(1, 2)[..., None]})
        return cumsum(x, dim)

    def interleaved(x, *times):
        return x.repeat_interleave(times[2], 2) if len(times) == 4 and times[:2] == (1, 1) else repeat(x, *times)

    with mock.patch.object(torch, "cumsum", recording_cumsum), mock.patch.object(torch.Tensor, "repeat", interleaved), \
            mock.patch.object(torch, "exp", recording_exp):
        yield


def classes(fla, kind):
    """Of a configuration and of its language model: transformers has a Mamba of its own by the same name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    if kind.startswith("mamba"):
        name = kind.capitalize()
        return getattr(fla.models, name + "Config"), getattr(fla.models, name + "ForCausalLM")
    return CONFIG_MAPPING[kind], MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]


def run(fla, case):
    config = json.loads((case.directory / "checkpoint/config.json").read_text())
    weights = case.weights()
    seen.clear()
    with in_float64():
        # Its list of tied weights is not what transformers takes today.
        tied, kind = config.pop("tie_word_embeddings"), config.pop("model_type")
        config_class, model_class = classes(fla, kind)
        model = model_class(config_class(**config, tie_word_embeddings=False)).eval()
        weights = translated(weights, {key: value.shape for key, value in model.state_dict().items()})
        if tied:
            weights["lm_head.weight"] = next(value for key, value in weights.items() if key.endswith("embeddings.weight"))
        model.load_state_dict(weights)
        x = case.inputs()
        with recorded_mamba(x.shape[1]) if kind.startswith("mamba") else contextlib.nullcontext():
            logits = model(x, use_cache=False).logits
    return logits, dict(zip(case.sites(), seen, strict=True))


if __name__ == "__main__":
    main(load, run)
