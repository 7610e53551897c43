"""NX-AI/xlstm: its xLSTMLMModel in float64 with its vanilla backend, to which its own conversion brings the storage of the CUDA
backend. λ of mLSTM is of the normaliser that its parallel form divides by, the Jacobians of sLSTM are autograd's through its own
step, in true units."""

import sys
from unittest import mock

import torch

from comparison import *

CASES = ["xlstm/nx-ai"]


def load(checkout):
    torch.set_default_dtype(torch.float64)
    stand_in("torch.utils.cpp_extension", load=None)  # which would look for a compiler of CUDA
    sys.path.insert(0, str(checkout))
    import xlstm
    from xlstm.blocks.mlstm import cell as mlstm_cell
    from xlstm.blocks.slstm import cell as slstm_cell
    slstm_cell.DTYPE_DICT["float32"] = torch.float64
    return xlstm, mlstm_cell, slstm_cell


def up_to(size, width):
    """The factor that makes `size` of `width`, rounded up to a multiple of one."""
    return {"proj_factor": (size - 0.5) / width, "round_proj_up_to_multiple_of": 1}


def configuration(xlstm, case, weights):
    vocabulary, width = weights["token_embedding.weight"].shape
    kinds = [site.rsplit(".", 1)[1] for site in case.sites()]
    part = lambda kind, name: weights.get(f"xlstm_block_stack.blocks.{kinds.index(kind)}.{name}")
    config = {"vocab_size": vocabulary, "embedding_dim": width, "num_blocks": len(kinds), "context_length": 256,
              "add_post_blocks_norm": "xlstm_block_stack.post_blocks_norm.weight" in weights,
              "tie_weights": "lm_head.weight" not in weights}
    if "mlstm" in kinds:
        taps, inner = part("mlstm", "xlstm.conv1d.conv.weight").shape[2], len(part("mlstm", "xlstm.learnable_skip"))
        config["bias"] = part("mlstm", "xlstm.proj_up.bias") is not None
        config["mlstm_block"] = xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(
            conv1d_kernel_size=taps, qkv_proj_blocksize=part("mlstm", "xlstm.q_proj.weight").shape[2],
            num_heads=len(part("mlstm", "xlstm.mlstm_cell.igate.bias")), **up_to(inner, width)))
    if "slstm" in kinds:
        kernel = part("slstm", "xlstm.conv1d.conv.weight")
        network = case.settings.get("slstm_block", {}).get("feedforward", {})
        config["slstm_at"] = [layer for layer, kind in enumerate(kinds) if kind == "slstm"]
        config["slstm_block"] = xlstm.sLSTMBlockConfig(
            slstm=xlstm.sLSTMLayerConfig(
                backend="vanilla", num_heads=len(part("slstm", "xlstm.igate.weight")), dtype="float32", dtype_b="float32",
                conv1d_kernel_size=0 if kernel is None else kernel.shape[2], enable_automatic_mixed_precision=False,
                group_norm_weight=part("slstm", "xlstm.group_norm.weight") is not None),
            feedforward=xlstm.FeedForwardConfig(bias=part("slstm", "ffn.proj_up.bias") is not None, **network,
                                                **up_to(part("slstm", "ffn.proj_down.weight").shape[1], width)))
    return xlstm.xLSTMLMModelConfig(**config)


def converted(slstm_cell, model, weights):
    """Recurrent weights that lie as the CUDA backend stores them, for its vanilla one."""
    weights = dict(weights)
    for name, module in model.named_modules():
        kernel, bias = f"{name}._recurrent_kernel_", f"{name}._bias_"
        if isinstance(module, slstm_cell.sLSTMCell_vanilla):
            stored = slstm_cell.sLSTMCell_cuda(module.config, skip_backend_init=True)
            weights[kernel] = module._recurrent_kernel_ext2int(stored._recurrent_kernel_int2ext(weights[kernel]))
            weights[bias] = module._bias_ext2int(stored._bias_int2ext(weights[bias]))
    return weights


def jacobians(cell, step, x, states):
    """Of the map of (c, n, h) [3·d] of every head by its step [B,T,H,3d,3d]; x [T,B,4·H·d], states [4,T+1,B,H·d] (h, c, n, m)."""
    steps, batch, _ = x.shape
    heads, size = cell.config.num_heads, cell.config.head_dim
    found = torch.zeros(batch, steps, heads, 3 * size, 3 * size)
    for b in range(batch):
        for t in range(steps):
            h, c, n, m = states[:, t, b]
            if t == 0:  # c and n are 0 in any unit; in a small one the step does not cut its forget gate off at 1
                m = m - 30

            def true_units(state):
                c, n, h = state
                stored = torch.stack([h, c * torch.exp(-m), n * torch.exp(-m), m])[:, None]
                h, c, n, unit = step(x[t:t + 1, b:b + 1], stored)[:, 0, 0]
                return torch.stack([c * torch.exp(unit), n * torch.exp(unit), h])

            with torch.enable_grad():
                matrix = torch.autograd.functional.jacobian(true_units, torch.stack([c * torch.exp(m), n * torch.exp(m), h]))
            matrix = matrix.reshape(3, heads, size, 3, heads, size)
            after = states[2, t + 1, b] * torch.exp(states[3, t + 1, b])
            for head in range(heads):
                block = matrix[:, head, :, :, head].reshape(3 * size, 3 * size)
                # A similar matrix: c and n in units of n, which keeps its eigenvectors apart.
                unit = torch.cat([after[head * size:(head + 1) * size].repeat(2), torch.ones(size)])
                found[b, t, head] = block / unit[:, None] * unit
    return found


def run(code, case):
    xlstm, mlstm_cell, slstm_cell = code
    weights, seen = case.weights(), []
    model = xlstm.xLSTMLMModel(configuration(xlstm, case, weights))
    if case.name.endswith("/scalar"):  # as its case says, of the CUDA backend
        weights = converted(slstm_cell, model, weights)
    fit(model.double(), weights)
    parallel, forward = mlstm_cell.parallel_stabilized_simple, slstm_cell.sLSTMCell_vanilla._impl

    def recording_parallel(**options):
        kept, maximum = {}, torch.maximum

        def recording(sums, smallest):
            kept["normaliser"], kept["log unit"] = maximum(sums, smallest), -smallest.log()
            return kept["normaliser"]

        with mock.patch.object(torch, "maximum", recording):
            out = parallel(**options)
        log_normaliser = ((kept["normaliser"] + 1e-6).log() + kept["log unit"]).transpose(1, 2)
        log_forget = torch.nn.functional.logsigmoid(options["fgate_preact"]).transpose(1, 2)
        seen.append({"log_magnitude": log_forget[:, 1:] + log_normaliser[:, :-1] - log_normaliser[:, 1:]})
        return out

    def recording_forward(cell, training, x, state):
        states = forward(cell, training, x, state)
        step = lambda x, states: cell._impl_step(training, x, states)
        seen.append({"matrices": jacobians(cell, step, x, states)})
        return states

    with mock.patch.object(slstm_cell.sLSTMCell_vanilla, "_impl", recording_forward):
        for module in model.modules():
            if isinstance(module, mlstm_cell.mLSTMCell):
                module.backend_fn = recording_parallel
        logits = model(case.inputs())
    return logits, dict(zip(case.sites(), seen, strict=True))


if __name__ == "__main__":
    main(load, run)
