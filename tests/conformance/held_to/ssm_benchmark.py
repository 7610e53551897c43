"""jsie7/ssm-benchmark: its Transformer in float64, before the softmax that it ends with; log λ from the scores, sums and
normalisers of its attention."""

import sys

import torch

from comparison import *
import released_analysis

CASES = ["softmax-attention/ssm-benchmark", "linear-attention/ssm-benchmark", "norm-attention/ssm-benchmark"]


def load(checkout):
    torch.set_default_dtype(torch.float64)
    stand_in("models").__path__ = [str(checkout / "models")]  # its package imports mamba_ssm
    sys.path.insert(0, str(checkout))
    from models import common
    stand_in("models", **{name: getattr(common, name) for name in ("MATCH", "MLP", "ClassifierHead", "TokenEmbeddings")})
    for name in ("arange", "ones"):
        setattr(torch, name, released_analysis.on_cpu(getattr(torch, name)))
    from models import transformer
    return transformer


def run(transformer, case):
    weights, recorder, logits = case.weights(), RecordedAttention(), []
    tokens = "encoder.word_embeddings.weight" in weights
    width = len(weights["norm.weight"])
    classifier = "classifier.decoder.weight" in weights
    config = {"input_dim": 0 if tokens else weights["encoder.weight"].shape[1], "num_layers": len(case.sites()),
              "output_dim": len(weights["classifier.decoder.weight" if classifier else "decoder.weight"]), "hidden_dim": width,
              "embedding": tokens, "vocab_size": len(weights["encoder.word_embeddings.weight"]) if tokens else 0,
              "max_pos_embed": len(weights.get("encoder.position_embeddings.weight", ())), "dual": False,
              "pooling": case.settings.get("pooling", "none"), "classifier": classifier, "att_dropout": 0.0, "dropout": 0.0,
              "state_dim": len(weights["layers.0.attention.Wqk.weight"]) // 2, "norm": "layer",
              "mlp_dim": len(weights["layers.0.mlp.encoder.weight"])} | {
                  name: case.settings[name] for name in ("num_heads", "attention_fn", "norm_fn") if name in case.settings}
    model = fit(transformer.Transformer(config), weights)
    (model.classifier if classifier else model.decoder).register_forward_hook(lambda *parts: logits.append(parts[2]))

    def recording(function):
        def call(x):
            inverse = function(x)  # of the normaliser, [B,T,H]
            recorder.seen.append((inverse[:, 1:].log() - inverse[:, :-1].log())[..., None])
            return inverse

        return call

    for module in model.modules():
        if hasattr(module, "norm_fn"):
            module.norm_fn = recording(module.norm_fn)
    with recorder:
        model(case.inputs())
    return logits[0], {site: {"log_magnitude": values} for site, values in zip(case.sites(), recorder.seen, strict=True)}


if __name__ == "__main__":
    main(load, run)
