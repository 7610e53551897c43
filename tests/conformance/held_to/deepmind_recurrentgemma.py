"""google-deepmind/recurrentgemma: its PyTorch Griffin in float64, also where it computes in float32 whatever its type; log λ
from the decays that its scan is given and the scores of its softmax. Needs jaxtyping."""

import sys
from unittest import mock

import torch

from comparison import *
from hugging_face import in_float64

CASES = ["recurrent-gemma/deepmind"]


def load(checkout):
    # Its packages import its JAX half and its sampler.
    for name, place in (("recurrentgemma", "recurrentgemma"), ("recurrentgemma.torch", "recurrentgemma/torch")):
        stand_in(name).__path__ = [str(checkout / place)]
    from recurrentgemma import common
    from recurrentgemma.torch import griffin, layers
    layers.rnn_scan.__defaults__ = tuple(torch.float64 if value is torch.float32 else value
                                         for value in layers.rnn_scan.__defaults__)
    return common, griffin, layers


def run(code, case):
    common, griffin, layers = code
    weights, seen = case.weights(), []
    kinds = [common.TemporalBlockType.ATTENTION if site.endswith("attention") else common.TemporalBlockType.RECURRENT
             for site in case.sites()]
    vocabulary, width = weights["embedder.input_embedding"].shape
    recurrent = next(f"blocks.{layer}.recurrent_block." for layer, site in enumerate(case.sites()) if site.endswith("rg-lru"))
    scan, softmax = layers.rnn_scan, torch.nn.functional.softmax

    def recording_scan(x, a, **options):
        seen.append({"log_magnitude": a.log()[..., None]})
        return scan(x, a, **options)

    def recording_softmax(scores, dim):
        seen.append({"log_magnitude": of_softmax(scores)})
        return softmax(scores, dim=dim)

    with in_float64():
        config = common.GriffinConfig(
            vocab_size=vocabulary, width=width, mlp_expanded_width=weights["blocks.0.mlp_block.ffw_up.w"].shape[2],
            num_heads=len(weights[recurrent + "rg_lru.a_gate.w"]), lru_width=len(weights[recurrent + "rg_lru.a_param"]),
            block_types=tuple(kinds), embeddings_scale_by_sqrt_dim=True, logits_soft_cap=30.0,
            attention_window_size=case.settings.get("attention_window_size", 2048))
        model = griffin.Griffin(config, gradient_checkpointing=False).double().eval()
        model.load_state_dict(weights)
        positions = torch.arange(case.inputs().shape[1]).expand(case.inputs().shape)
        with mock.patch.object(layers, "rnn_scan", recording_scan), \
                mock.patch.object(torch.nn.functional, "softmax", recording_softmax):
            logits = model(case.inputs(), positions)[0]
    return logits, dict(zip(case.sites(), seen, strict=True))


if __name__ == "__main__":
    main(load, run)
