#!/usr/bin/env python3
"""PAPER_COMPAT against the analysis released with arXiv 2510.09379, run from a checkout of its authors' repository
(IntelligentControlSystems/Task-Level-Insights-from-Eigenvalues-across-Sequence-Models) on the same weights and batch.

    released_analysis.py CHECKOUT --check build/bin/conformance_check [--seed 7] [--keep /tmp/released]

For each model: the authors' own class in the configuration of theirs that is named, shrunk in length and batch, its weights
moved away from their initial values; analysis/eval_eig.py's eval_eig() over one batch; ours by conformance_check, which
compares every eigenvalue, in float64 (both run in it) and in float32.

Needs torch, numpy, safetensors, pyyaml, einops, matplotlib, jax, flax and orbax-checkpoint; not part of `make test`, as the
checkout is not ours. What it needs of a GPU is replaced: the device "cuda" by the CPU, mamba_ssm's scan by its recurrence,
step by step; flash attention is off.
"""

import argparse
import copy
import functools
import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import types

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np
import torch
import yaml

import case

BATCH = 8  # eval_eig prints those of the examples 0, 2, 4 and 6

# Name -> the released configuration, what is changed of its model, family; and how many steps are run.
MODELS = {
    "softmax": ("mqar/mqar-sm-attention", {}, "softmax-attention", 256),
    "softmax conv": ("cifar/cifar-sm-attention-conv", {"num_layers": 2, "hidden_dim": 64, "state_dim": 32},
                     "softmax-attention", 200),
    "linear": ("mqar/mqar-lin-attention", {}, "linear-attention", 256),
    "linear conv": ("cifar/cifar-lin-attention-conv", {"num_layers": 2, "hidden_dim": 64, "state_dim": 32}, "linear-attention",
                    200),
    "norm": ("listops/listops-norm-attention-conv", {"num_layers": 3}, "norm-attention", 256),
    "norm exp": ("cifar/cifar-norm-attention-exp", {"num_layers": 2, "hidden_dim": 64}, "norm-attention", 256),
    "mamba2": ("imdb/imdb-mamba2", {}, "mamba2", 256),
    "mamba2 post-norm": ("cifar/cifar-mamba2", {"num_layers": 2, "hidden_dim": 64}, "mamba2", 200),
    "mamba2 pseudo-LTI": ("cifar/cifar-mamba2-pseudoLTI", {"num_layers": 2, "hidden_dim": 64}, "mamba2", 64),
    "lru": ("cifar/cifar-lru", {"num_layers": 2, "hidden_dim": 64}, "lru", 64),
    "s4": ("cifar/cifar-s4", {"num_layers": 2, "hidden_dim": 16, "state_dim": 4}, "s4", 64),
}


def scan(x, dt, a, b, c, chunk_size=None, D=None, z=None, seq_idx=None, initial_states=None, **options):
    """mamba_ssm's mamba_chunk_scan_combined: x [B,T,H,P], dt [B,T,H], a [H], b and c [B,T,G,N]."""
    assert z is None and seq_idx is None and not options
    shared = x.shape[2] // b.shape[2]
    b, c = b.repeat_interleave(shared, 2), c.repeat_interleave(shared, 2)
    h = torch.zeros(*x.shape[:1], *x.shape[2:], b.shape[3], dtype=x.dtype) if initial_states is None else initial_states
    ys = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t] * a)[..., None, None] * h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        ys.append((h * c[:, t, :, None, :]).sum(-1))
    return torch.stack(ys, 1) + D[:, None] * x


def stand_in(name, **members):
    """A module of that name, and those it lies in."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        full = ".".join(parts[:i])
        module = sys.modules.setdefault(full, types.ModuleType(full))
        module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(full, None)
    vars(module).update(members)


def on_cpu(function):
    """Where something is put on "cuda", it stays on the CPU."""
    def call(*arguments, **options):
        if options.get("device") == "cuda":
            options["device"] = "cpu"
        return function(*("cpu" if type(a) is str and a == "cuda" else a for a in arguments), **options)

    return call


def load_released(checkout):
    stand_in("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=scan, mamba_split_conv1d_scan_combined=None)
    stand_in("mamba_ssm.ops.triton.layernorm_gated", RMSNorm=None, LayerNorm=None)
    stand_in("mamba_ssm.ops.selective_scan_interface", selective_scan_fn=None)
    stand_in("flash_attn", flash_attn_qkvpacked_func=None)
    stand_in("fla.ops.simple_gla", chunk_simple_gla=None, fused_recurrent_simple_gla=None)
    stand_in("causal_conv1d", causal_conv1d_fn=None)
    stand_in("wandb")
    for owner, name in ((torch, "ones"), (torch, "arange"), (torch.Tensor, "to"), (torch.nn.Module, "to")):
        setattr(owner, name, on_cpu(getattr(owner, name)))
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location("eval_eig", pathlib.Path(checkout) / "analysis/eval_eig.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # SSD_LTI hands Parameter a device and a dtype, which it does not take: the released class cannot be made as it is.
    sys.modules["models.mamba"].nn = types.SimpleNamespace(**vars(torch.nn) | {"Parameter": lambda x, **_: torch.nn.Parameter(x)})
    # And SSD keeps A_log in float32 whatever the rest is in.
    for name in ("Mamba", "Transformer"):
        setattr(module, name, functools.partial(lambda cls, config: cls(config).to(torch.get_default_dtype()),
                                                getattr(module, name)))
    return module


def run_released(released, config, inputs, path):
    """eval_eig's eigenvalues of the checkpoint at `path`; it writes files where it runs."""
    args = {"model": copy.deepcopy(config["model"]), "train": {"lr": 0}, "dataset": {"name": "batch"}, "seed": config["seed"]}
    loader = [(torch.from_numpy(inputs), None, None)]
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            printed, sys.stdout = sys.stdout, open(os.devnull, "w")
            return released.eval_eig(args, {"batch_size": BATCH, "save_path": scratch + "/"}, None, args["dataset"], loader,
                                     str(path), 0.0)[0]
        finally:
            sys.stdout = printed
            os.chdir(here)


def draw_inputs(rng, steps, width, dtype):
    """The same numbers in either precision."""
    drawn = rng.normal(0, 1, (BATCH, steps, width)).astype(np.float32)
    return drawn.astype(np.float32 if dtype == torch.float32 else np.float64)


def make_torch(released, config, rng, directory, steps, dtype):
    torch.set_default_dtype(torch.float32)
    cls = released.Mamba if config["model"]["layer"] == "mamba" else released.Transformer
    model = cls(config["model"])
    for name, parameter in model.named_parameters():
        spread = 0.02 if name.endswith(("A_log", "dt_bias", "mamba.A", "offset")) else 0.3 * parameter.std().nan_to_num(0) + 0.02
        parameter.data += torch.from_numpy(rng.normal(0, 1, parameter.shape).astype(np.float32)) * spread
    torch.save(model.state_dict(), directory / "model.pth")
    torch.set_default_dtype(dtype)
    tokens = config["model"].get("token_embedding", config["model"]["embedding"])
    if tokens:
        inputs = rng.integers(0, config["model"]["vocab_size"], (BATCH, steps))
    else:
        inputs = draw_inputs(rng, steps, config["model"]["input_dim"], dtype)
    model = cls(config["model"])
    model.load_state_dict(torch.load(directory / "model.pth", weights_only=True))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(inputs)).numpy()
    if logits.ndim == 2:
        logits = logits[:, None]
    eig = run_released(released, config, inputs, directory / "model.pth")
    site = {"mamba": "mamba2", "sm-attention": "attention", "lin-attention": "linear_attention",
            "norm-attention": "norm_attention"}[config["model"].get("attention_fn", "mamba")]
    values = np.log(eig.astype(np.float64))
    if config["model"].get("pseudoLTI"):
        assert (values == values[:1, :1]).all()
        values = values[0, 0][None]
    settings = {k: v for k, v in config["model"].items() if k not in ("layer", "use_flash", "num_layers")}
    return inputs, logits, [values[..., layer, None] if values.ndim == 4 else values[0][:, layer, None]
                            for layer in range(config["model"]["num_layers"])], site, settings, "model.pth"


def make_jax(released, config, rng, directory, steps, dtype):
    import jax
    import orbax.checkpoint as ocp
    from models import jax_layers
    jax.config.update("jax_enable_x64", dtype == torch.float64)
    model_config, kind = config["model"], config["model"]["layer"]
    model_config["seq_len"] = steps
    ssm = {"lru": released.init_LRU, "s4": released.init_S4}[kind](model_config["state_dim"], model_config["hidden_dim"],
                                                                   **model_config)
    model = released.BatchClassificationModel(
        ssm=ssm, d_output=model_config["output_dim"], d_model=model_config["hidden_dim"], n_layers=model_config["num_layers"],
        activation=model_config["activation"], dropout=model_config["dropout"], pooling=model_config["pooling"],
        prenorm=model_config["prenorm"], norm=model_config["norm"], padded=False, training=False)
    inputs = draw_inputs(rng, steps, model_config["input_dim"], dtype)
    key = jax.random.PRNGKey(int(rng.integers(1 << 30)))
    variables = model.init({"params": key, "dropout": key}, inputs)

    def moved(leaf):
        leaf = np.asarray(leaf)
        kept = np.complex64 if np.iscomplexobj(leaf) else np.float32  # what a checkpoint holds
        stored = (leaf + rng.normal(0, 0.05, leaf.shape)).astype(kept)
        return stored if dtype == torch.float32 else stored.astype(np.result_type(kept, np.float64))

    variables = jax.tree.map(moved, variables)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    log_softmax, jax_layers.nn.log_softmax = jax_layers.nn.log_softmax, lambda x, axis=-1: x
    logits = np.asarray(model.apply(variables, inputs))
    jax_layers.nn.log_softmax = log_softmax
    tree = {"model": {"params": variables["params"], "batch_stats": variables["batch_stats"], "step": np.int32(1)},
            "config": {"model": model_config, "train": {}}}
    ocp.PyTreeCheckpointer().save((directory / "orbax").absolute(), tree)
    eig = run_released(released, config, inputs, (directory / "orbax").absolute())
    spec = importlib.util.spec_from_file_location("export_orbax", HERE.parents[1] / "models/recipes/export_orbax.py")
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    export.write(*export.convert(tree), directory / "model.safetensors")
    return inputs, logits[:, None] if logits.ndim == 2 else logits, [eig[:, layer] for layer in range(eig.shape[-1])], kind, \
        {}, "model.safetensors"


def make(released, name, checkout, seed, root, dtype, exact):
    """The case's directory, as README.md describes it, and log λ by layer. exact: those in float64 on the same weights."""
    file, changes, family, steps = MODELS[name]
    config = yaml.safe_load((pathlib.Path(checkout) / f"configs/iclr2026/{file}.yaml").read_text())
    config["model"] |= {"use_flash": False} | changes
    precision = "float64" if dtype == torch.float64 else "float32"
    directory = root / f"{name} {precision}".replace(" ", "_")
    directory.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(name)])
    torch.manual_seed(seed)
    maker = make_jax if config["model"]["layer"] in ("lru", "s4") else make_torch
    inputs, logits, eigenvalues, site, settings, checkpoint = maker(released, config, rng, directory, steps, dtype)
    transitions, spread = {}, 0
    for layer, values in enumerate(eigenvalues):
        if family == "lru":
            found = case.log_magnitude(np.log(np.abs(values))[None], np.angle(values)[None])
        elif family == "s4":
            found = case.multiset(values[None], np.ones(1), np.ones(1))
        else:
            found = case.log_magnitude(values)
        transitions[f"layers.{layer}.{site}"] = found
        if exact and family == "softmax-attention":
            ours, theirs = found["log_magnitude"], exact[f"layers.{layer}.{site}"]["log_magnitude"]
            spread = max(spread, (np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())
    # Softmax's scores without 1/sqrt(d) are large: in float32 theirs may be farther from theirs in float64.
    allowed = 1e-9 if precision == "float64" else max(1e-5, spread)
    print(f"{name}, {precision}: {allowed:.2g} allowed", flush=True)
    case.write(directory, reference="analysis/eval_eig.py", tokens=inputs, logits=logits, transitions=transitions,
               dtypes=(precision,), checkpoint=checkpoint, settings=settings, departures=[],
               tolerances={"eigenvalues": {precision: allowed, "reason": "1e-5, or what float32 leaves of softmax's"}})
    case.add_facts(directory, name=f"{name}, {precision}", family=family, layout="paper")
    return directory, transitions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--check", required=True, help="the program conformance_check")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", default=",".join(MODELS), help="of " + ", ".join(MODELS))
    parser.add_argument("--keep", type=pathlib.Path, help="where the cases are left; by default a folder that is removed")
    arguments = parser.parse_args()
    released = load_released(arguments.checkout.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.keep or pathlib.Path(scratch)
        cases = []
        for name in arguments.models.split(","):
            exact = None
            # S4 is complex64 by definition.
            for dtype in (torch.float32,) if name == "s4" else (torch.float64, torch.float32):
                directory, exact = make(released, name, arguments.checkout.resolve(), arguments.seed, root, dtype, exact)
                cases.append(directory)
        sys.exit(subprocess.run([arguments.check, *cases]).returncode)


if __name__ == "__main__":
    main()
