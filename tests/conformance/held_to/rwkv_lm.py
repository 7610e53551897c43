"""BlinkDL/RWKV-LM in float64: of RWKV-4 its RNN (RWKV-v4/src/model_run.py), of RWKV-6 RWKV-v5/rwkv_v6_demo.py with a plain
loop in place of its kernel, of RWKV-7 RWKV-v7/rwkv_v7_demo.py without its kernel, and of the toy models
RWKV-v8/251105_reverse_run.py, with that demo's loop in place of its kernel and a ROSA branch that gives its bias alone. These
are scripts: their classes and functions are taken out of them, without what they load and print, their sizes and the asserts
of these.

λ of RWKV-4 is that of the sums that its RNN keeps, of RWKV-6 that of the w which its kernel would be given, Λ of RWKV-7 what one
step of its loop does to the identity.
"""

import types
from unittest import mock

import torch

from comparison import *
from hugging_face import in_float64

CASES = ["rwkv4/rwkv-lm", "rwkv6/rwkv-lm", "rwkv7/rwkv-lm", "rwkv7/rwkv-lm-demo"]


class Sizes(types.SimpleNamespace):
    """Those of a model, which its class cannot set otherwise."""

    def __setattr__(self, name, value):
        pass


def load(checkout):
    return checkout


def run(checkout, case):
    weights = case.weights()
    with in_float64():
        return {"rwkv4": rwkv4, "rwkv6": rwkv6, "rwkv7": rwkv7}[case.name.split("/")[0]](checkout, case, weights)


def rwkv4(checkout, case, weights):
    code = definitions(checkout / "RWKV-v4/src/model_run.py", RWKV_HEAD_QK_DIM=0, DEBUG_TIME=False)
    layers = len(case.sites())
    width, channels = weights["emb.weight"].shape[1], len(weights["blocks.0.att.time_decay"])
    logits, sums = [], []
    with mock.patch.object(torch, "load", lambda *_, **__: dict(weights)):
        model = code["RWKV_RNN"](str(case.file.with_suffix("")), "cpu", "RWKV", layers, width, 1024)
    for tokens in case.inputs():
        model.clear()
        for layer in range(layers):  # as it does itself, for as many channels as there are
            name = f"att.{layer}"
            model.xx[name] = torch.zeros(width)
            model.aa[name], model.bb[name] = torch.zeros(channels), torch.zeros(channels)
            model.pp[name] = torch.full((channels,), -1e30)
        for t in range(len(tokens)):
            logits.append(model.run(tokens[:t + 1].tolist()))
            sums.append(torch.stack([model.bb[f"att.{layer}"].log() + model.pp[f"att.{layer}"] for layer in range(layers)]))
    shape = case.inputs().shape
    sums = torch.stack(sums).reshape(*shape, layers, channels)
    found = {}
    for layer, site in enumerate(case.sites()):
        decay = model.w.blocks[layer].att.time_decay
        found[site] = {"log_magnitude": (decay + sums[:, :-1, layer] - sums[:, 1:, layer])[..., None]}
    return np.array(logits), found


def rwkv6(checkout, case, weights):
    layers, decays = len(case.sites()), []
    heads, size = weights["blocks.0.att.time_faaaa"].shape

    def kernel(B, T, C, H, r, k, v, w, u):
        r, k, v, w = (x.view(B, T, heads, size) for x in (r, k, v, w))
        log_decay = -torch.exp(w)
        decays.append(log_decay)
        state, out = torch.zeros(B, heads, size, size), []
        for t in range(T):
            added = k[:, t, :, :, None] * v[:, t, :, None, :]
            out.append((r[:, t, :, None] @ (state + u[..., None] * added))[:, :, 0])
            state = state * log_decay[:, t, :, :, None].exp() + added
        return torch.stack(out, 1).view(B, T, -1)

    code = definitions(checkout / "RWKV-v5/rwkv_v6_demo.py")
    code["RUN_CUDA_RWKV6"] = kernel
    args = Sizes(n_layer=max(2, layers), n_embd=weights["emb.weight"].shape[1], vocab_size=len(weights["emb.weight"]),
                 head_size_a=size, head_size_divisor=case.settings.get("head_size_divisor", 8), dim_att=heads * size,
                 dim_ffn=len(weights["blocks.0.ffn.key.weight"]))
    model = code["RWKV"](args)
    model.blocks = model.blocks[:layers]
    logits = fit(model, weights)(case.inputs())
    return logits, {site: {"log_magnitude": values} for site, values in zip(case.sites(), decays, strict=True)}


def step_matrices(op, w, a, b, size):
    """What a step with w, a and b [B,T,C] does to the identity, [B,T,H,N,N]: N steps that keep everything make the identity,
    one is the step, N more read it."""
    batch, steps, channels = w.shape
    count = batch * steps
    units = torch.eye(size).repeat(1, channels // size).expand(count, size, channels)
    nothing, keep = torch.zeros(count, size, channels), torch.full((count, size, channels), -torch.inf)
    step = lambda x: x.reshape(count, 1, channels)
    zero = torch.zeros(count, 1, channels)
    sequence = lambda *parts: torch.cat(parts, 1).contiguous()
    read = op(sequence(nothing, zero, units), sequence(keep, step(w), keep), sequence(units, zero, nothing),
              sequence(units, zero, nothing), sequence(nothing, step(a), nothing), sequence(nothing, step(b), nothing))
    return read[:, -size:].reshape(batch, steps, size, channels // size, size).transpose(2, 3)


def rwkv7(checkout, case, weights):
    demo = "-demo/" in case.name
    layers, found = len(case.sites()), []
    heads, size = weights["rwkv1.r_k" if demo else "blocks.0.att.r_k"].shape
    free = {"MyModule": torch.nn.Module, "MyFunction": lambda function: function, "MyStatic": lambda function: function}
    vocabulary, width = weights["e.weight" if demo else "emb.weight"].shape
    code = definitions(checkout / "RWKV-v7/rwkv_v7_demo.py", USE_CUDA_KERNEL=False, HEAD_SIZE=size, DTYPE=torch.float64,
                       D_DECAY_LORA=1, D_AAA_LORA=1, D_MV_LORA=1, D_GATE_LORA=1, **free)
    op = code["RWKV7_OP"]

    def recording(r, w, k, v, a, b):
        found.append(step_matrices(op, w, a, b, size))
        return op(r, w, k, v, a, b)

    if demo:
        toy = definitions(checkout / "RWKV-v8/251105_reverse_run.py", LOAD_NAME="_L2", V=vocabulary, C=width, HEAD_SIZE=size,
                          device="cpu", **free)
        toy["RUN_CUDA_RWKV7g"] = recording
        absent = tuple(f"rosa{layer}.{part}" for layer in (1, 2) for part in (
            "x_q", "x_k", "x_v", "q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias", "rosa_qkv.emb", "o.weight"))
        model = fit(toy["MODEL"](), weights, absent + ("ln1c.weight", "ln1c.bias", "ln2c.weight", "ln2c.bias") +
                    ("rwkv1.v0", "rwkv1.v1", "rwkv1.v2"))
    else:
        code["RWKV7_OP"] = recording
        args = Sizes(n_layer=layers, n_embd=width, vocab_size=vocabulary, head_size_a=size, dim_att=width,
                     dim_ffn=len(weights["blocks.0.ffn.key.weight"]))
        model = fit(code["RWKV"](args), weights, ("ln0.weight", "ln0.bias", "blocks.0.att.v0", "blocks.0.att.v1",
                                                  "blocks.0.att.v2"))
    logits = model(case.inputs())
    return logits, {site: {"matrices": values} for site, values in zip(case.sites(), found, strict=True)}


if __name__ == "__main__":
    main(load, run)
