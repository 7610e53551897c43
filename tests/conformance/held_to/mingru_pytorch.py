"""lucidrains/minGRU-pytorch: its minLM in float64, its norms with the eps of the type that a case is in; log λ is what it hands
to its scan in log space."""

import sys

import torch

from comparison import *

CASES = ["min-gru/lucidrains", "min-lstm/lucidrains"]


def load(checkout):
    sys.path.insert(0, str(checkout))
    from minGRU_pytorch import minGRU, minLM
    return sys.modules["minGRU_pytorch.minGRU"], minLM


def run(code, case):
    mixers, lm = code
    weights, seen, scan = case.weights(), [], mixers.heinsen_associative_scan_log
    kernel = weights.get("layers.0.0.net.0.weight")
    lstm = "layers.0.2.to_hidden_and_f_i_gate.weight" in weights
    vocabulary, width = weights["token_emb.weight"].shape
    channels = weights["layers.0.2.to_hidden_and_f_i_gate.weight" if lstm else "layers.0.2.to_hidden_and_gate.weight"].shape[0]
    model = lm.minLM(num_tokens=vocabulary, dim=width, depth=len(case.sites()), use_lstm=lstm, enable_conv=kernel is not None,
                     ff_mult=len(weights["layers.0.4.0.bias"]) / width, expansion=channels / (3 if lstm else 2) / width,
                     conv_kernel_size=3 if kernel is None else kernel.shape[2])
    for module in model.modules():
        if isinstance(module, torch.nn.RMSNorm):
            module.eps = torch.finfo(getattr(torch, case.facts["dtypes"][0])).eps

    def recording(log_coefficients, log_values):
        seen.append({"log_magnitude": log_coefficients[..., None]})
        return scan(log_coefficients, log_values)

    replace("minGRU_pytorch", heinsen_associative_scan_log=recording)
    logits = fit(model, weights)(case.inputs())
    replace("minGRU_pytorch", heinsen_associative_scan_log=scan)
    return logits, dict(zip(case.sites(), seen, strict=True))


if __name__ == "__main__":
    main(load, run)
