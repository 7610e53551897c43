"""state-spaces/s4 in float64: its SequenceModel with S4Block and SequenceDecoder, or the S4Model of its example.py with S4Block
or the minimal S4D. Checkpoints of versions 2 and 3 go through the functions of its checkpoints/convert_v3_to_v4.py, and by other
names where these know none. λ is of the matrices that its kernels make for its recurrent mode, of the minimal S4D the
exponential in its kernel. Needs opt_einsum and omegaconf; hydra, pytorch_lightning and wandb are replaced."""

import importlib
import sys
import types
from unittest import mock

import torch

from comparison import *

CASES = ["s4/state-spaces", "s4d/state-spaces", "s4d/minimal"]


def load(checkout):
    torch.set_default_dtype(torch.float64)
    stand_in("pytorch_lightning.utilities", rank_zero_only=lambda function: function)
    stand_in("hydra.utils", get_method=lambda path: getattr(importlib.import_module(path.rpartition(".")[0]),
                                                            path.rpartition(".")[2]))
    stand_in("wandb")
    sys.path.insert(0, str(checkout))
    from models.s4 import s4, s4d
    from src.models.sequence.backbones import model
    from src.tasks import decoders
    return types.SimpleNamespace(s4=s4, s4d=s4d, model=model, decoders=decoders, checkout=checkout)


def translated(code, weights):
    """Version 4's names, shapes and signs."""
    if not any(".kernel.kernel." in key for key in weights):
        return weights
    convert = definitions(code.checkout / "checkpoints/convert_v3_to_v4.py", imports=False, OmegaConf=None,
                          hydra=types.SimpleNamespace(main=lambda **_: lambda function: function))
    weights = {key.replace("inv_A_real", "A_real"): value for key, value in weights.items()}
    for name in ("convert_dt", "convert_a", "convert_kernel", "convert_conv"):
        weights = convert[name](weights)
    return {key if ".layer." in key else key.replace(".kernel.", ".layer.kernel.").replace(".D", ".layer.D"): value
            for key, value in weights.items()}


def layer_options(case, weights, kernel):
    """Of S4Block, from one layer's tensors; kernel: what their keys start with."""
    options = {"d_state": 2 * weights[kernel + "A_imag"].shape[1], "n_ssm": len(weights[kernel + "A_imag"]),
               "channels": len(weights[kernel + "C"]), "mode": "dplr" if case.name.startswith("s4/") else "diag"}
    if kernel + "P" in weights:
        options["rank"] = len(weights[kernel + "P"])
    return options | {name: case.settings[name] for name in ("dt_transform", "real_transform", "imag_transform", "disc")
                      if name in case.settings}


class Whole(torch.nn.Module):
    """As its task puts them together: encoder, backbone, decoder."""

    def __init__(self, encoder, model, decoder):
        super().__init__()
        self.encoder, self.model, self.decoder = torch.nn.Sequential(encoder), model, torch.nn.ModuleList([decoder])

    def forward(self, x):
        return self.decoder[0](self.model(self.encoder(x))[0])


def run(code, case):
    saved = torch.load(case.file, weights_only=True)
    saved = saved.get("state_dict", saved.get("model", saved))
    weights = translated(code, {key: value.double() if value.is_floating_point() else value for key, value in saved.items()})
    layers, x = len(case.sites()), case.inputs()
    example, minimal, exponents = "s4_layers.0.output_linear.0.weight" in weights, case.name.startswith("s4d/minimal"), []
    if example:
        options = {} if minimal else layer_options(case, weights, "s4_layers.0.layer.kernel.")

        def layer(d_model, dropout, transposed, lr):
            if minimal:
                return code.s4d.S4D(d_model, d_state=2 * weights["s4_layers.0.kernel.C"].shape[1], transposed=transposed)
            return code.s4.S4Block(d_model, transposed=transposed, **options)

        script = definitions(code.checkout / "example.py", imports=False, nn=torch.nn, tqdm=None)
        script |= {"S4D": layer, "args": types.SimpleNamespace(lr=0.001), "dropout_fn": lambda _: torch.nn.Identity()}
        classes, width = weights["decoder.weight"].shape
        model = script["S4Model"](d_input=weights["encoder.weight"].shape[1], d_output=classes, d_model=width, n_layers=layers,
                                  prenorm=case.settings["prenorm"])
        blocks = model.s4_layers
    else:
        classes, width = weights["decoder.0.output_transform.weight"].shape
        tokens = "encoder.0.bias" not in weights
        vocabulary = weights["encoder.0.weight"].shape[0 if tokens else 1]
        batch_norm = any(key.endswith("running_mean") for key in weights)
        backbone = code.model.SequenceModel(
            width, n_layers=layers, prenorm=case.settings["prenorm"], residual="R", norm="batch" if batch_norm else "layer",
            transposed=batch_norm, layer=[{"_name_": "s4", **layer_options(case, weights, "model.layers.0.layer.layer.kernel.")}])
        pooling = case.settings["pooling"]
        decoder = code.decoders.SequenceDecoder(width, classes, l_output=None if pooling == "none" else 0,
                                                mode="pool" if pooling == "mean" else "last")
        model = Whole(torch.nn.Embedding(vocabulary, width) if tokens else torch.nn.Linear(vocabulary, width), backbone, decoder)
        blocks = [block.layer for block in backbone.layers]
        x = x if tokens else torch.eye(vocabulary)[x]
    model.double().eval().load_state_dict(weights)
    exp = torch.exp

    def recording(argument):
        if argument.is_complex() and argument.ndim == 2:
            exponents.append(argument)
        return exp(argument)

    with mock.patch.object(torch, "exp", recording):
        logits = model(x)
    found = {}
    for layer, site in enumerate(case.sites()):
        if minimal:
            found[site] = {"log_magnitude": exponents[layer].real, "phase": exponents[layer].imag}
        elif case.name.startswith("s4/"):
            found[site] = {"matrices": blocks[layer].layer.kernel._setup_state()[0].numpy()}
        else:
            blocks[layer].layer.kernel._setup_step()
            decay = blocks[layer].layer.kernel.dA
            found[site] = {"log_magnitude": decay.abs().log(), "phase": decay.angle()}
    return logits, found


if __name__ == "__main__":
    main(load, run)
