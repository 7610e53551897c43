"""HazyResearch/based: its GPTLMHeadModel with its mixers and MLPs in float64. What it imports from flash_attn (embeddings, MHA,
MLP, rotary embedding, attention), hydra and flash-linear-attention (parallel_based) is written out plainly, its RMSNorm is its
rms_norm_ref. log λ of linear attention is of the normaliser that its quadratic form inverts, of softmax that of its scores; a
convolution has none but -inf, which is not compared. Needs triton, which its modules import."""

import functools
import re
import sys
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config

from comparison import *
from hugging_face import in_float64

CASES = ["based/hazyresearch"]

seen = []  # log λ of the layers' attention, in order


def attend(q, k, v, scale, window=None):
    """Causal, of [B,T,H,d], within window + 1 steps."""
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    age = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    hidden = age < 0 if window is None else (age < 0) | (age > window)
    scores = (torch.einsum("bihd,bjhd->bhij", q, k) * scale).masked_fill(hidden, -torch.inf)
    seen.append(of_softmax(scores))
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)


def flash_attn_qkvpacked_func(qkv, dropout, softmax_scale, causal, window_size):
    assert causal and not dropout and window_size[1] == 0
    return attend(*qkv.unbind(2), softmax_scale, window_size[0])


def flash_attn_func(q, k, v, window_size=None):
    raise NotImplementedError


class MHA(nn.Module):
    def __init__(self, width, num_heads, num_heads_kv, qkv_proj_bias, out_proj_bias, softmax_scale, rotary_emb_dim,
                 rotary_emb_base, rotary_emb_scale_base, rotary_emb_interleaved, **_):
        super().__init__()
        self.size, self.scale = width // num_heads, softmax_scale
        self.sizes = [width, self.size * (num_heads_kv or num_heads), self.size * (num_heads_kv or num_heads)]
        self.Wqkv = nn.Linear(width, sum(self.sizes), bias=qkv_proj_bias)
        self.out_proj = nn.Linear(width, width, bias=out_proj_bias)
        self.rotary_emb = RotaryEmbedding(rotary_emb_dim, rotary_emb_base, rotary_emb_scale_base, rotary_emb_interleaved, None)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (-1, self.size)) for part in self.Wqkv(x).split(self.sizes, -1))
        if self.rotary_emb.size:
            q, k = self.rotary_emb.turn(q), self.rotary_emb.turn(k)
        return self.out_proj(attend(q, k, v, self.scale).flatten(-2))


class Embeddings(nn.Module):
    def __init__(self, width, vocabulary, positions, word_embed_proj_dim=None, **_):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width) if positions else None

    def forward(self, tokens, position_ids=None):
        x = self.word_embeddings(tokens)
        return x if self.position_embeddings is None else x + self.position_embeddings.weight[:tokens.shape[1]]


class Mlp(nn.Module):
    def __init__(self, width, hidden_features, activation, bias1, bias2, **_):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden_features, bias=bias1), nn.Linear(hidden_features, width, bias=bias2)
        self.activation = activation

    def forward(self, x):
        return self.fc2(self.activation(self.fc1(x)))


def parallel_based(q, k, v, use_scale, use_norm):
    assert use_scale and use_norm
    s = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    kernel = torch.tril(1 + s + s * s / 2)
    total = kernel.sum(-1, keepdim=True) + 1e-6
    record_normaliser(total[..., 0])
    return kernel @ v / total


def record_normaliser(total):
    """[B,H,T]."""
    seen.append((total[..., :-1].log() - total[..., 1:].log()).transpose(1, 2)[..., None])


def instantiate(config, _partial_=False, **options):
    """hydra's, of a description with _target_."""
    module, name = config["_target_"].rsplit(".", 1)
    options = {key: instantiate(value) if isinstance(value, dict) and "_target_" in value else value
               for key, value in config.items() if key != "_target_"} | options
    target = getattr(__import__(module, fromlist=[name]), name)
    return functools.partial(target, **options) if _partial_ else target(**options)


def load(checkout):
    nothing = dict.fromkeys
    stand_in("flash_attn", flash_attn_func=flash_attn_func, flash_attn_qkvpacked_func=flash_attn_qkvpacked_func,
             **nothing(["flash_attn_kvpacked_func", "flash_attn_varlen_kvpacked_func", "flash_attn_varlen_qkvpacked_func",
                        "flash_attn_with_kvcache"], lambda *_: None))
    stand_in("flash_attn.layers.rotary", RotaryEmbedding=RotaryEmbedding)
    stand_in("flash_attn.modules.embedding", GPT2Embeddings=Embeddings, ParallelGPT2Embeddings=None)
    stand_in("flash_attn.modules.mha", MHA=MHA, ParallelMHA=None)
    stand_in("flash_attn.modules.mlp", Mlp=Mlp, **nothing(["FusedMLP", "ParallelFusedMLP", "ParallelMLP"]))
    stand_in("flash_attn.ops.activations", sqrelu_fwd=None, swiglu=lambda x, y: F.silu(x) * y)
    stand_in("flash_attn.utils.distributed", **nothing(["all_gather_raw", "get_dim_for_local_rank", "sync_shared_params",
                                                        "all_reduce", "reduce_scatter"]))
    stand_in("flash_attn.utils.generation", InferenceParams=None)
    stand_in("flash_attn.utils.pretrained", state_dict_from_pretrained=None)
    stand_in("torchvision.ops", StochasticDepth=lambda probability, mode: nn.Identity())
    stand_in("hydra.utils", instantiate=instantiate)
    stand_in("fla.ops.based", parallel_based=parallel_based, fused_chunk_based=None)
    stand_in("fla.ops.based.naive", naive_parallel_based=None)
    sys.path.insert(0, str(checkout))
    import based
    stand_in("based.generation", InferenceParams=None, GenerationMixin=type("GenerationMixin", (), {}),
             NaiveGenerationMixin=type("NaiveGenerationMixin", (), {}))
    from based.models import gpt
    from based.models.mixers import linear_attention, slide_attention
    from based.ops.triton import layer_norm

    def rms_norm(x, weight, bias, residual=None, eps=1e-6, prenorm=False, **_):
        assert residual is None and not prenorm
        return layer_norm.rms_norm_ref(x, weight, bias, eps=eps)

    replace("based", rms_norm_fn=rms_norm)
    # The project's own asks for half precision and a GPU.
    slide_attention.FlashSelfAttention.forward = lambda self, qkv, **_: flash_attn_qkvpacked_func(
        qkv, 0.0, self.softmax_scale, True, self.window_size)
    return gpt


def run(gpt, case):
    weights = {re.sub("^model\\.", "", key): value for key, value in case.weights().items() if "metrics" not in key}
    seen.clear()
    einsum = torch.einsum

    def recording(equation, *operands):
        result = einsum(equation, *operands)
        if equation == "bhld,bhld->bhl":  # its normaliser, before the 1e-12 that it adds
            record_normaliser(result + 1e-12)
        return result

    with in_float64():
        model = gpt.GPTLMHeadModel(GPT2Config(**case.config)).double().eval()
        if case.config.get("tie_word_embeddings", True):
            weights["lm_head.weight"] = weights["transformer.embeddings.word_embeddings.weight"]
        # The bias of a convolution that only the kernel has.
        for name, module in model.named_modules():
            if f"{name}.bias" in weights and isinstance(module, nn.Conv1d) and module.bias is None:
                module.bias = nn.Parameter(weights[f"{name}.bias"])
        model.load_state_dict(weights)
        with mock.patch.object(torch, "einsum", recording):
            logits = model(case.inputs()).logits
    sites = [site for site in case.sites() if not site.endswith("convolution")]
    return logits, {site: {"log_magnitude": values} for site, values in zip(sites, seen, strict=True)}


if __name__ == "__main__":
    main(load, run)
