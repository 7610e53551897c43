"""The repository of arXiv 2510.09379: its Transformer and Mamba in float64 with mamba_ssm's scan as a plain loop
(released_analysis.scan), its flax models in float64. Eigenvalues are what its code has on the way: the scores of its softmax, the
normalisers of its linear and norm attention, Δ·A, λ of its scans, Ā of its discrete_DPLR; where a case asks for all departures,
what its own functions of analysis/eval_eig.py return. Cases with some departures are compared by their logits.

S4 runs in its convolutional mode, on sequences that zeros fill to its length. Needs what released_analysis.py needs.
"""

import sys
from unittest import mock

import torch

from comparison import *
import flax_models
import released_analysis

import jax
import jax.numpy as jnp

CASES = ["softmax-attention/paper", "linear-attention/paper", "norm-attention/paper", "mamba2/paper", "lru/paper", "s4/paper",
         "s5/paper"]


def load(checkout):
    torch.set_default_dtype(torch.float64)
    return released_analysis.load_released(checkout)


def wants_all(case):
    return case.facts.get("departures") == []


def run(released, case):
    return run_flax(released, case) if case.name.split("/")[0] in ("lru", "s4", "s5") else run_torch(released, case)


# --- PyTorch ---


def common(case, weights):
    rows = {name: tensor.shape for name, tensor in weights.items()}
    tokens = "encoder.word_embeddings.weight" in rows
    vocabulary, width = rows["encoder.word_embeddings.weight"] if tokens else (0, rows["encoder.weight"][0])
    last = rows["classifier.decoder.weight" if "classifier.decoder.weight" in rows else "decoder.weight"]
    return {"input_dim": 0 if tokens else rows["encoder.weight"][1], "output_dim": last[0], "hidden_dim": width,
            "num_layers": len(case.sites()), "vocab_size": vocabulary, "dropout": 0.0, "norm": "layer", "dual": False,
            "pooling": case.settings.get("pooling", "none")}, tokens


def transformer_configuration(case, weights):
    config, tokens = common(case, weights)
    prefix = "layers.0."
    has = lambda name: prefix + name in weights
    mixer = ("hybrid" if has("mixer.alpha") else "mlp" if has("mixer.encoder.weight") else
             "glu" if has("mixer.linear.weight") else "none")
    hidden = next((weights[name].shape[0] for name in ("classifier.encoder.weight", prefix + "mixer.encoder.weight")
                   if name in weights), 0)
    norm, heads = case.name.startswith("norm"), case.settings["num_heads"]
    fused = weights[prefix + ("attention.Wvqkn.weight" if norm else "attention.Wqkv.weight")].shape[0]
    queries = (fused - config["hidden_dim"] - (heads if norm else 0)) // 2
    taps = weights[prefix + "attention.conv1d.weight"] if has("attention.conv1d.weight") else None
    positions = weights.get("encoder.position_embeddings.weight", ())
    own = {"layer": "transformer", "state_dim": queries, "att_dropout": 0.0, "mixer": mixer, "mixer_dim": hidden,
           "use_gate": has("Wz.weight"), "embedding": tokens, "max_pos_embed": len(positions), "use_flash": False,
           "classifier": "classifier.decoder.weight" in weights, "dim_conv": 0 if taps is None else taps.shape[2],
           "conv_type": "full" if taps is None or taps.shape[0] > 2 * queries else "partial", "mode": "attention",
           "offset": has("attention.inner_attn.offset"), "offset_init": "uniform", "learn_A": False}
    return config | own | {name: value for name, value in case.settings.items() if name != "pooling"}


def mamba_configuration(case, weights):
    config, tokens = common(case, weights)
    mixer = "blocks.0.mamba."
    width, inner = weights[mixer + "out_proj.weight"].shape
    lti = mixer + "A" in weights
    order = (weights[mixer + "conv1d.weight"].shape[0] - inner) // 2
    return config | {"layer": "mamba", "version": "mamba2", "num_heads": len(weights[mixer + "D"]) * width // inner,
                     "state_dim": order, "conv_dim": weights[mixer + "conv1d.weight"].shape[2], "expansion": inner // width,
                     "glu": "blocks.0.glu.linear.weight" in weights, "prenorm": case.settings["prenorm"], "pseudoLTI": lti,
                     "token_embedding": tokens}


def run_torch(released, case):
    weights, recorder = case.weights(), RecordedAttention()
    mamba = case.name.startswith("mamba2/")
    config = (mamba_configuration if mamba else transformer_configuration)(case, weights)
    models = sys.modules["models.mamba"], sys.modules["models.transformer"]

    def scan(x, dt, a, *arguments, **options):
        recorder.seen.append((dt * a)[..., None])
        return released_analysis.scan(x, dt, a, *arguments, **options)

    with mock.patch.object(models[0], "mamba_chunk_scan_combined", scan):
        model = models[0].Mamba(config) if mamba else models[1].Transformer(config)
        learned = {name: value for name, value in weights.items() if name.endswith(".init_states")}
        for name, value in learned.items():  # which its blocks do not ask for, but its SSD has
            mixer = model.get_submodule(name.rsplit(".", 1)[0])
            mixer.learnable_init_states, mixer.init_states = True, torch.nn.Parameter(torch.zeros_like(value))
        model.double().eval().load_state_dict(weights)
        for module in model.modules():
            if type(module).__name__ == "SelfNormAttention":
                module.register_forward_hook(recorder.after_norm)
        with recorder:
            logits = model(case.inputs())
    found = {site: {"log_magnitude": values} for site, values in zip(case.sites(), recorder.seen, strict=True)}
    if case.facts.get("departures") is None:
        return logits, found
    return logits, analysed(released, case, model, config) if wants_all(case) else {}


def analysed(released, case, model, config):
    """What analysis/eval_eig.py makes of each layer."""
    x, found = model.encoder(case.inputs()), {}
    of = {"sm-attention": released.get_eig_att_softmax, "lin-attention": released.get_eig_att_linear,
          "norm-attention": lambda *arguments: released.get_eig_att_norm(*arguments, config)}[config["attention_fn"]]
    for site, layer in zip(case.sites(), model.layers):
        x = layer(x)
        with np.errstate(divide="ignore"):
            found[site] = {"log_magnitude": np.log(of(x, layer, config["state_dim"], config["num_heads"],
                                                      config["hidden_dim"]))}
    return found


# --- flax ---


def run_flax(released, case):
    kind, config = case.name.split("/")[0], flax_models.settings(case)
    if kind == "s5":
        config |= {"num_blocks": 1}
    initial = {"lru": released.init_LRU, "s4": released.init_S4, "s5": released.init_S5}[kind]
    steps = case.inputs().shape[1]
    # The mean over the steps is taken of the logits: they may be followed by others that zeros make.
    pooling = "none" if kind == "s4" and config["pooling"] == "mean" else config["pooling"]
    model = released.BatchClassificationModel(
        ssm=initial(config["state_dim"], config["hidden_dim"], **config), d_output=config["output_dim"],
        d_model=config["hidden_dim"], n_layers=config["num_layers"], activation=config["activation"], dropout=config["dropout"],
        pooling=pooling, prenorm=config["prenorm"], norm=config["norm"], padded=False, training=False)
    variables = flax_models.variables(case, ("P", "B") if kind == "s4" else ())
    x = flax_models.inputs(case)
    if kind == "s4":
        x = np.concatenate([x, np.zeros((len(x), config["seq_len"] - steps, x.shape[2]))], 1)
    layers = sys.modules["models.jax_layers"]
    with flax_models.recorded_scans() as (seen, scan), mock.patch.object(sys.modules["models.lru"], "parallel_scan", scan), \
            mock.patch.object(layers.nn, "log_softmax", lambda x, axis: x):
        logits = np.asarray(model.apply(variables, x))
    if kind == "s4":
        logits = logits[:, :steps].mean(1) if pooling != config["pooling"] else logits[:, :steps]
    found = {}
    parts = [variables["params"]["encoder"][f"layers_{layer}"]["seq"] for layer in range(config["num_layers"])]
    for layer, site in enumerate(case.sites()):
        if wants_all(case):
            with jax.enable_x64(kind != "s4"):  # S4's is complex64 by definition
                trees = [{name: jnp.asarray(value) for name, value in part.items()} for part in parts]
                values = np.asarray(released.get_eigvals_ssm(kind, trees, layer, 1, config["seq_len"]))[:, 0]
            found[site] = {"matrices": np.diag(values)[None]} if kind == "s4" else flax_models.log_of(values)
        elif kind == "s4":
            p = parts[layer]
            lam = np.minimum(p["Lambda_re"], -1e-4) + 1j * p["Lambda_im"]
            c = p["C"][..., 0] + 1j * p["C"][..., 1]
            matrices = [sys.modules["models.s4"].discrete_DPLR(lam[:, d], p["P"][:, d], p["P"][:, d], p["B"][:, d], c[:, d],
                                                               np.exp(p["log_step"][0, d]), config["seq_len"])[0]
                        for d in range(config["hidden_dim"])]
            found[site] = {"matrices": np.stack(matrices)}
        else:
            found[site] = flax_models.log_of(seen[layer])
    return logits, found


if __name__ == "__main__":
    main(load, run)
