"""xLSTM: Hugging Face's against transformers itself in float64, λ from the q, k, v and gates that it hands to its recurrence; the
models of the xLSTM library against a float64 twin of arXiv 2405.04517, step by step in true units, the Jacobians of sLSTM by
torch.autograd.

held_to/nx_ai_xlstm.py compares it with NX-AI/xlstm 032a6fb, xLSTMLMModel in float64 with its vanilla backend and its own
conversion from the storage of its CUDA backend: logits with seeds 1 to 5 differ by 5.6e-14 of the largest at most. This file is
not called xlstm.py: transformers looks for a package of that name."""

import functools
from unittest import mock

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.xlstm.modeling_xlstm import xLSTMPreTrainedModel

import case
import hugging_face
from plain import *

TWIN = case.held_to("float64 twin, step by step, Jacobians by autograd (oracles/xlstm_models.py)", "NX-AI/xlstm 032a6fb", "1e-13")


def matrix_memory(q, k, v, i, f, *, first_unit, eps=1e-6):
    """q, k [B,T,H,K], v [B,T,H,V], logits of gates [B,T,H]. Returns h and log λ [B,T-1,H,1] of gauge dsf."""
    log_f = log_sigmoid(f)
    batch, steps, count, size = q.shape
    memory, sums = np.zeros((batch, count, size, v.shape[-1])), np.zeros((batch, count, size))
    unit, h, normalizers = np.full((batch, count), first_unit), np.zeros(v.shape), []
    for t in range(steps):
        forget, enters = np.exp(log_f[:, t])[..., None], np.exp(i[:, t])[..., None]
        memory = forget[..., None] * memory + outer(enters * k[:, t], v[:, t])
        sums = forget * sums + enters * k[:, t]
        unit = np.maximum(log_f[:, t] + unit, i[:, t])
        query = q[:, t] / np.sqrt(size)
        # eps is in units of e^m.
        normalizer = np.maximum(np.abs((sums * query).sum(-1)), 1) + eps * np.exp(unit)
        h[:, t] = np.einsum("bhk,bhkv->bhv", query, memory) / normalizer[..., None]
        normalizers.append(normalizer)
    normalizers = np.stack(normalizers, 1)
    return h, (log_f[:, 1:] + np.log(normalizers[:, :-1] / normalizers[:, 1:]))[..., None]


def headwise(p, name, x):
    weight = p[name + ".weight"]
    y = flat(np.einsum("bthi,hoi->btho", heads(x, weight.shape[2]), weight))
    return y + p.get(name + ".bias", 0)


def mlstm(p, x):
    """p: the tensors of one block's "xlstm.". Returns the output, the mixer's name and its transition."""
    u, z = np.split(linear(p, "proj_up", x), 2, -1)
    conv = silu(convolution(u, p["conv1d.conv.weight"], p["conv1d.conv.bias"]))
    q, k, v = headwise(p, "q_proj", conv), headwise(p, "k_proj", conv), headwise(p, "v_proj", u)
    gates = np.concatenate([q, k, v], -1)
    i, f = linear(p, "mlstm_cell.igate", gates), linear(p, "mlstm_cell.fgate", gates)
    size = q.shape[-1] // i.shape[-1]
    h, log_lambda = matrix_memory(heads(q, size), heads(k, size), heads(v, size), i, f, first_unit=-np.inf)
    normed = flat(layer_norm(h, 1, 0, 1e-5)) * (1 + p["mlstm_cell.outnorm.weight"])
    return linear(p, "proj_down", (normed + p["learnable_skip"] * conv) * silu(z)), "mlstm", case.log_magnitude(log_lambda)


def scalar_step(raw, recurrent, state):
    """One head: raw [4,d] of i, f, z, o, recurrent [4,d,d], state (c, n, h) [3d] in true units."""
    c, n, h = state.chunk(3)
    i, f, z, o = raw + recurrent @ h
    c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
    n = torch.sigmoid(f) * n + torch.exp(i)
    return torch.cat([c, n, torch.sigmoid(o) * c / n])


def slstm(p, x, cuda):
    count, size = p["igate.weight"].shape[:2]
    conv = silu(convolution(x, p["conv1d.conv.weight"], p["conv1d.conv.bias"])) if "conv1d.conv.weight" in p else x
    # The library's layer calls them by each other's names (layer.py).
    raw = np.stack([heads(headwise(p, gate, part), size) for gate, part in
                    (("fgate", conv), ("igate", conv), ("zgate", x), ("ogate", x))], -2)  # [B,T,H,4,d]
    kernel, bias = p["slstm_cell._recurrent_kernel_"], p["slstm_cell._bias_"]
    if cuda:
        recurrent = kernel.reshape(count, size, 4, size).transpose(0, 2, 3, 1)
        raw = raw + bias.reshape(count, 4, size)
    else:
        recurrent = kernel.reshape(count, 4, size, size)
        raw = raw + bias.reshape(4, count, size).transpose(1, 0, 2)
    raw, recurrent = torch.from_numpy(raw), torch.from_numpy(np.ascontiguousarray(recurrent))
    h = np.zeros((*x.shape[:2], count, size))
    matrices = np.zeros((*x.shape[:2], count, 3 * size, 3 * size))
    for b in range(x.shape[0]):
        for head in range(count):
            state = torch.zeros(3 * size, dtype=torch.float64)
            for t in range(x.shape[1]):
                step = functools.partial(scalar_step, raw[b, t, head], recurrent[head])
                matrix = torch.autograd.functional.jacobian(step, state)
                state = step(state)
                # A similar matrix: c and n in units of n, which keeps its eigenvectors apart.
                unit = torch.cat([state[size:2 * size].repeat(2), torch.ones(size, dtype=torch.float64)])
                matrices[b, t, head] = (matrix / unit[:, None] * unit).numpy()
                h[b, t, head] = state[2 * size:].numpy()
    return flat(layer_norm(h, 1, 0, 1e-5)) * (1 + p.get("group_norm.weight", 0)), "slstm", case.dense(matrices)


ACTIVATIONS = {"gelu": lambda x: torch.nn.functional.gelu(torch.from_numpy(x)).numpy(), "relu^2": lambda x: relu(x) ** 2}


def network(p, x, act):
    gate, up = np.split(linear(p, "proj_up", x), 2, -1)
    return linear(p, "proj_down", ACTIVATIONS[act](gate) * up)


def forward(weights, layers, tokens, cuda=False, act="gelu"):
    """Returns logits, transitions, and x before each layer and after the last."""
    part = lambda prefix: {key[len(prefix):]: w for key, w in weights.items() if key.startswith(prefix)}
    norm = lambda name, x: layer_norm(x, 1 + weights[name + ".weight"], 0, 1e-5)
    x, transitions, inputs = weights["token_embedding.weight"][tokens], {}, []
    for layer in range(layers):
        inputs.append(x)
        block = f"xlstm_block_stack.blocks.{layer}."
        p, normed = part(block + "xlstm."), norm(block + "xlstm_norm", x)
        out, mixer, transition = mlstm(p, normed) if "proj_up.weight" in p else slstm(p, normed, cuda)
        transitions[f"layers.{layer}.{mixer}"] = transition
        x = x + out
        if block + "ffn.proj_up.weight" in weights:
            x = x + network(part(block + "ffn."), norm(block + "ffn_norm", x), act)
    inputs.append(x)
    if "xlstm_block_stack.post_blocks_norm.weight" in weights:
        x = norm("xlstm_block_stack.post_blocks_norm", x)
    return linear(weights, "lm_head" if "lm_head.weight" in weights else "token_embedding", x), transitions, inputs


def shapes(width, kinds, *, vocabulary, inner, mlstm_heads, block, slstm_heads, hidden, taps=4, bias=False, ffn_bias=False,
           cuda=False, norm_weight=True, post_norm=True, tied=False):
    """kinds: "m" or "s" of each block."""
    found = {"token_embedding.weight": (vocabulary, width)}
    if not tied:
        found["lm_head.weight"] = (vocabulary, width)
    if post_norm:
        found["xlstm_block_stack.post_blocks_norm.weight"] = (width,)
    size = width // slstm_heads
    for layer, kind in enumerate(kinds):
        prefix = f"xlstm_block_stack.blocks.{layer}."
        found[prefix + "xlstm_norm.weight"] = (width,)
        if kind == "m":
            own = {"proj_up.weight": (2 * inner, width), "proj_down.weight": (width, inner), "learnable_skip": (inner,),
                   "conv1d.conv.weight": (inner, 1, taps), "conv1d.conv.bias": (inner,),
                   "mlstm_cell.outnorm.weight": (inner,)}
            own |= {f"mlstm_cell.{gate}.weight": (mlstm_heads, 3 * inner) for gate in ("igate", "fgate")}
            own |= {f"mlstm_cell.{gate}.bias": (mlstm_heads,) for gate in ("igate", "fgate")}
            own |= {f"{name}_proj.weight": (inner // block, block, block) for name in "qkv"}
            if bias:
                own |= {"proj_up.bias": (2 * inner,), "proj_down.bias": (width,)} | {f"{n}_proj.bias": (inner,) for n in "qkv"}
        else:
            own = {f"{gate}.weight": (slstm_heads, size, size) for gate in ("igate", "fgate", "zgate", "ogate")}
            own |= {"slstm_cell._recurrent_kernel_": (slstm_heads, size, 4 * size) if cuda else (slstm_heads, 4 * size, size),
                    "slstm_cell._bias_": (4 * width,)}
            if taps:
                own |= {"conv1d.conv.weight": (width, 1, taps), "conv1d.conv.bias": (width,)}
            if norm_weight:
                own["group_norm.weight"] = (width,)
            found |= {prefix + "ffn_norm.weight": (width,), prefix + "ffn.proj_up.weight": (2 * hidden, width),
                      prefix + "ffn.proj_down.weight": (width, hidden)}
            if ffn_bias:
                found |= {prefix + "ffn.proj_up.bias": (2 * hidden,), prefix + "ffn.proj_down.bias": (width,)}
        found |= {f"{prefix}xlstm.{name}": shape for name, shape in own.items()}
    return found


# Of mLSTM in float32.
CANCELLATION = {"eigenvalues": {"float32": 3e-5, "reason": "n·q sums terms of both signs: the relative error of η, and with it of λ, is "
                                                         "that of the rounded q and k times as much as cancels"}}
SCALE = {"_recurrent_kernel_": 0.5, "norm.weight": 0.2, "igate.bias": 1.5, "fgate.bias": 2}


def nx_ai(directory, rng, kinds, act="gelu", safetensors=False, settings=None, **options):
    # The norm over a head of two would be a step function of their difference.
    size, slstm_heads, mlstm_heads = int(rng.integers(4, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    sizes = dict(vocabulary=int(rng.integers(20, 50)), inner=12 * mlstm_heads, mlstm_heads=mlstm_heads, block=4,
                 slstm_heads=slstm_heads, hidden=int(rng.integers(10, 30))) | options
    width = size * slstm_heads if "s" in kinds else int(rng.integers(10, 25))
    if "s" not in kinds:
        sizes["slstm_heads"] = 1
    weights = draw(rng, shapes(width, kinds, **sizes), scale=SCALE)
    stored = {key: value.astype(np.float32) for key, value in weights.items()}
    name = "model.safetensors" if safetensors else "model.pt"
    if safetensors:
        save_file(stored, directory / name)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in stored.items()}, directory / name)
    tokens = rng.integers(0, sizes["vocabulary"], (2, int(rng.integers(20, 50))))
    logits, transitions, inputs = forward(weights, len(kinds), tokens, sizes.get("cuda", False), act)
    case.write(directory, reference=TWIN, tokens=tokens, logits=logits, transitions=transitions, layer_inputs=inputs,
               dtypes=("float64", "float32"), checkpoint=name, settings=settings,
               tolerances=CANCELLATION if "m" in kinds else None)


def hugging_face_case(directory, rng, steps=None, gauge=None, **config):
    count = int(rng.integers(1, 5))
    config = transformers.xLSTMConfig(**({"vocab_size": 40, "hidden_size": count * 8, "num_hidden_layers": 3, "num_heads": count,
                                          "ffn_round_up_to_multiple_of": 16, "autocast_kernel_dtype": "float32"} | config))
    calls, inputs = [], []
    # Its initialiser fails for fused weights; every weight is drawn here anyway.
    plain = mock.patch.object(xLSTMPreTrainedModel, "_init_weights", lambda self, module: None)
    with hugging_face.in_float64(), plain:
        model = transformers.xLSTMForCausalLM(config)
        for block in model.backbone.blocks:
            block.register_forward_pre_hook(lambda module, args: inputs.append(args[0].numpy()))
            block.mlstm_layer.mlstm_backend.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
        model.backbone.out_norm.register_forward_pre_hook(lambda module, args: inputs.append(args[0].numpy()))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "gate_preact.bias" in name:  # so that now one side of the normaliser is the larger, now the other
                    parameter.copy_(2 * torch.randn_like(parameter))
        # An odd number of steps runs its chunks as well as its steps.
        tokens, logits = hugging_face.run(directory, rng, model, steps or int(rng.integers(66, 90)))
    transitions = {}
    for layer, call in enumerate(calls):
        q, k, v = (call[name].numpy().transpose(0, 2, 1, 3) for name in ("query", "key", "value"))
        i, f = (call[name].numpy().transpose(0, 2, 1) for name in ("igate", "fgate"))
        log_lambda = log_sigmoid(f)[..., None] if gauge == "raw" else matrix_memory(q, k, v, i, f, first_unit=0.0, eps=config.eps)[1]
        transitions[f"layers.{layer}.mlstm"] = case.log_magnitude(log_lambda)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions=transitions,
               layer_inputs=inputs, dtypes=("float64", "float32"), gauge=gauge,
               tolerances=None if gauge == "raw" else CANCELLATION)


CASES = {
    "xlstm/nx-ai/both": functools.partial(nx_ai, kinds="mms"),
    "xlstm/nx-ai/matrix": functools.partial(nx_ai, kinds="mm", bias=True, post_norm=False, taps=3, safetensors=True),
    "xlstm/nx-ai/scalar": functools.partial(nx_ai, kinds="ss", cuda=True, taps=0, norm_weight=False, ffn_bias=True, tied=True,
                                            act="relu^2", settings={"slstm_block": {"feedforward": {"act_fn": "relu^2"}}}),
    "xlstm/huggingface/single": hugging_face_case,
    "xlstm/huggingface/fused": functools.partial(hugging_face_case, weight_mode="fused", qk_dim_factor=0.25, v_dim_factor=2.0,
                                                 gate_soft_cap=3.0, output_logit_soft_cap=5.0, norm_eps=1e-4, eps=1e-3,
                                                 num_hidden_layers=2),
    "xlstm/huggingface/short": functools.partial(hugging_face_case, steps=23, num_hidden_layers=2),
    "xlstm/huggingface/raw_gauge": functools.partial(hugging_face_case, num_hidden_layers=2, gauge="raw"),
}
