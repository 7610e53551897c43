"""HazyResearch/zoology: its LanguageModel in float64, log λ from the scores of its attention. Needs pydantic; torchvision's
StochasticDepth, which does nothing here, pandas and wandb are replaced."""

import sys

import torch

from comparison import *

CASES = ["zoology-transformer/zoology"]


def load(checkout):
    torch.set_default_dtype(torch.float64)
    stand_in("torchvision.ops", StochasticDepth=lambda probability, mode: torch.nn.Identity())
    stand_in("wandb")
    stand_in("pandas", DataFrame=None)
    sys.path.insert(0, str(checkout))
    from zoology import config, model
    made = model.TokenEmbeddings
    model.TokenEmbeddings = lambda *arguments, **options: made(*arguments, **options, device="cpu", dtype=torch.float64)
    return config, model


def run(code, case):
    config, model = code
    settings = dict(case.settings)
    for name in ("sequence_mixer", "state_mixer"):
        settings[name] = config.ModuleConfig(**settings[name])
        if settings[name].name == "torch.nn.Identity":  # which takes anything
            settings[name] = config.ModuleConfig(name="torch.nn.Identity", kwargs={})
    lm = model.LanguageModel(config.ModelConfig(**settings))
    lm.load_state_dict(case.weights())
    with RecordedAttention() as recorder:
        logits = lm.eval()(case.inputs(), return_embeddings=False)
    return logits, {site: {"log_magnitude": values} for site, values in zip(case.sites(), recorder.seen, strict=True)}


if __name__ == "__main__":
    main(load, run)
