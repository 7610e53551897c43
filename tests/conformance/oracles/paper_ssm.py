"""The linear time-invariant models of arXiv 2510.09379 (S4, S5, LRU) and minimal-LRU's LRU against a float64 NumPy twin that
runs their recurrences one step at a time: S4's state matrix is formed and inverted, not convolved with.

Checkpoints go through models/recipes/export_orbax.py, from a tree as Orbax restores it. Eigenvalues of S4 are mpmath's, in
60 digits.

held_to/eigenvalue_paper.py and minimal_lru.py compare it with the authors' own flax modules in float64
(IntelligentControlSystems/Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254, NicolasZucchet/minimal-LRU
bbd71b1; jax 0.10.2, flax 0.12.8): logits with seeds 1 to 5 within 7.9e-15 and 3.2e-15 of the largest.
"""

import functools
import importlib.util
import math
import pathlib

import mpmath
import numpy as np

import case

NAME = "float64 NumPy twin, step by step (oracles/paper_ssm.py)"
REFERENCES = {"paper": case.held_to(NAME, "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254", "8e-15"),
              "minimal-lru": case.held_to(NAME, "NicolasZucchet/minimal-LRU bbd71b1", "4e-15")}
EXPORT = pathlib.Path(__file__).resolve().parents[3] / "models/recipes/export_orbax.py"


def exporter():
    spec = importlib.util.spec_from_file_location("export_orbax", EXPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def normalise(x, p, statistics):
    if statistics is None:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * p["scale"] + p["bias"]


# --- the state-space models: u [B,T,D] -> y and what is expected of the eigenvalues ---


def scan(lam, v):
    """h_t = λ∘h_{t-1} + v_t for v [B,T,N]."""
    h, states = np.zeros_like(v[:, 0]), []
    for t in range(v.shape[1]):
        h = lam * h + v[:, t]
        states.append(h)
    return np.stack(states, 1)


def lru(u, p, config):
    log_lambda = -np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"])
    b = (p["B_re"] + 1j * p["B_im"]) * np.exp(p["gamma_log"])[:, None]
    h = scan(np.exp(log_lambda), u @ b.T)
    y = (h @ (p["C_re"] + 1j * p["C_im"]).T).real + u * p["D"]
    return y, case.log_magnitude(log_lambda.real[None], wrap(log_lambda.imag)[None])


def wrap(angle):
    return math.pi - np.mod(math.pi - angle, 2 * math.pi)


def s5(u, p, config):
    real = np.minimum(p["Lambda_re"], -1e-4) if config.get("clip_eigs") else p["Lambda_re"]
    lam, step = real + 1j * p["Lambda_im"], np.exp(p["log_step"][:, 0])
    b, c = p["B"][..., 0] + 1j * p["B"][..., 1], p["C"][..., 0] + 1j * p["C"][..., 1]
    if config.get("discretization", "zoh") == "zoh":
        bar = np.exp(lam * step)
        b = ((bar - 1) / lam)[:, None] * b
    else:
        bar = (1 + lam * step / 2) / (1 - lam * step / 2)
        b = (step / (1 - lam * step / 2))[:, None] * b
    y = (scan(bar, u @ b.T) @ c.T).real
    return (2 if config.get("conj_sym", True) else 1) * y + u * p["D"], case.log_magnitude(np.log(np.abs(bar))[None],
                                                                                            np.angle(bar)[None])


def eigenvalues(matrix):
    """mpmath's, and the condition of the eigenvectors."""
    with mpmath.workdps(60):
        values, vectors = mpmath.eig(mpmath.matrix(matrix.tolist()))
        values = np.array([complex(value) for value in values])
        vectors = np.array([[complex(vectors[i, j]) for j in range(len(values))] for i in range(len(values))])
    return values, np.linalg.cond(vectors / np.linalg.norm(vectors, axis=0))


def discrete(a, b, step):
    """Ā and b̄ of the bilinear method."""
    identity = np.eye(len(a))
    inverse = np.linalg.inv(identity - step / 2 * a)
    return inverse @ (identity + step / 2 * a), step * (inverse @ b)


def bilinear_multiset(a, steps):
    """Eigenvalues of the channels' Ā from those of their A."""
    lams, norms, conditions = [], [], []
    for matrix, step in zip(a, steps):
        mu, condition = eigenvalues(matrix)
        lams.append((1 + step * mu / 2) / (1 - step * mu / 2))
        norms.append(1.0)  # Ā's: it is a contraction
        conditions.append(condition)
    return case.multiset(np.array(lams), np.array(norms), np.array(conditions))


def run_state(bar_a, bar_b, c, u):
    """y_t = Re(c h_t) of one channel, u [B,T]."""
    h, ys = np.zeros((u.shape[0], len(bar_b)), complex), []
    for t in range(u.shape[1]):
        h = h @ bar_a.T + u[:, t, None] * bar_b
        ys.append((h @ c).real)
    return np.stack(ys, 1)


def released_s4(lam, low, step):
    """What the released analysis makes of one channel: Ā in complex64, which NumPy solves in complex128 and rounds."""
    lam, low, step = lam.astype(np.complex64), low.astype(np.complex64), np.float32(step)
    forward = (2 / step) * np.eye(len(lam), dtype=np.complex64) + np.diag(lam) - np.outer(low, low.conj())
    backward = np.linalg.inv((2 / step) * np.eye(len(lam), dtype=np.complex64) - np.diag(lam) + np.outer(low, low.conj()))
    return case.dense((backward @ forward)[None])


def s4(u, p, config):
    y, length = np.empty_like(u), config["seq_len"]
    lam = np.minimum(p["Lambda_re"], -1e-4) + 1j * p["Lambda_im"]  # [N,D]
    low, b, c = (p[name][..., 0] + 1j * p[name][..., 1] for name in ("P", "B", "C"))
    steps, matrices = np.exp(p["log_step"][0]), []
    for d in range(u.shape[2]):
        a = np.diag(lam[:, d]) - np.outer(low[:, d], low[:, d].conj())
        bar_a, bar_b = discrete(a, b[:, d], steps[d])
        own_c = c[:, d].conj() @ np.linalg.inv(np.eye(len(a)) - np.linalg.matrix_power(bar_a, length))
        y[..., d] = run_state(bar_a, bar_b, own_c, u[..., d]) + p["D"][0, d] * u[..., d]
        matrices.append(a)
    if "E8" in config.get("departures", ()):
        return y, released_s4(lam[:, 1], low[:, 1], steps[1])
    return y, bilinear_multiset(matrices, steps)


MODELS = {"lru": lru, "s4": s4, "s5": s5}


# --- the frame ---


def run(x, params, statistics, config, kind, norm):
    encoder, sites = params["encoder"], {}
    x = dense(x, encoder["encoder"])
    for layer in range(config["num_layers"]):
        p = encoder[f"layers_{layer}"]
        found = statistics["encoder"][f"layers_{layer}"][norm] if statistics else None
        y = normalise(x, p[norm], found) if config["prenorm"] else x
        y, site = MODELS[kind](y, p["seq"], config)
        sites[f"layers.{layer}.{kind}"] = site
        z = gelu_tanh(y)
        if config["activation"] == "full_glu":
            z = dense(z, p["out1"]) * sigmoid(dense(z, p["out2"]))
        elif config["activation"] == "half_glu1":
            z = z * sigmoid(dense(z, p["out2"]))
        elif config["activation"] == "half_glu2":
            z = y * sigmoid(dense(z, p["out2"]))
        x = x + z
        if not config["prenorm"]:
            x = normalise(x, p[norm], found)
    x = {"mean": lambda: x.mean(1, keepdims=True), "last": lambda: x[:, -1:], "none": lambda: x}[config["pooling"]]()
    return dense(x, params["decoder"]), sites


def seq_shapes(kind, width, order, config):
    if kind == "lru":
        return {"nu_log": (order,), "theta_log": (order,), "gamma_log": (order,), "B_re": (order, width), "B_im": (order, width),
                "C_re": (width, order), "C_im": (width, order), "D": (width,)}
    if kind == "s5":
        return {"Lambda_re": (order,), "Lambda_im": (order,), "B": (order, width, 2), "C": (width, order, 2), "D": (width,),
                "log_step": (order, 1)}
    return {"Lambda_re": (order, width), "Lambda_im": (order, width), "P": (order, width), "B": (order, width),
            "C": (order, width, 2), "D": (1, width), "log_step": (1, width)}


def draw_seq(rng, kind, width, order, config):
    """Decays and frequencies of the size that models have; P and B of S4 are complex arrays, as in the checkpoint."""
    p = {}
    for name, shape in seq_shapes(kind, width, order, config).items():
        x = rng.normal(0, 0.5, shape)
        if name == "nu_log":
            x = rng.normal(-2.5, 0.8, shape)
        elif name == "gamma_log":
            x = rng.normal(-0.7, 0.3, shape)
        elif name == "Lambda_re":
            x = -rng.uniform(0.05, 1.5, shape)
            x.flat[0] = 0.1 if kind == "s4" or config.get("clip_eigs") else x.flat[0]  # beyond the clip
        elif name == "Lambda_im":
            x = rng.uniform(-8, 8, shape)
        elif name == "log_step":
            x = rng.uniform(math.log(0.02), math.log(0.3), shape)
        elif kind == "s4" and name in ("P", "B"):
            x = x + 1j * rng.normal(0, 0.5, shape)
        p[name] = x.astype(np.complex64 if np.iscomplexobj(x) else np.float32)
    return p


def draw_dense(rng, inputs, outputs):
    return {"kernel": rng.normal(0, 0.5 / math.sqrt(inputs) * 2, (inputs, outputs)).astype(np.float32),
            "bias": rng.normal(0, 0.2, outputs).astype(np.float32)}


def wide(tree):
    """float32 arrays of the checkpoint as the twin's float64, complex ones as pairs."""
    if isinstance(tree, dict):
        return {name: wide(value) for name, value in tree.items()}
    if np.iscomplexobj(tree):
        tree = np.stack([tree.real, tree.imag], -1)
    return tree.astype(np.float64)


def make(directory, rng, *, kind, layout="paper", order, norm, prenorm, activation="full_glu", pooling="none", channels=0,
         layers=2, steps=None, departures=None, **options):
    width, vocabulary = 2 * int(rng.integers(4, 9)), 48
    inputs = channels or vocabulary
    classes = vocabulary if pooling == "none" else 7
    steps = steps or int(rng.integers(20, 60))
    norm_name = "normalization" if layout == "minimal-lru" else "normalize"
    config = {"layer": kind, "num_layers": layers, "hidden_dim": width, "state_dim": order, "input_dim": inputs,
              "output_dim": classes, "activation": activation, "norm": norm, "prenorm": prenorm, "pooling": pooling,
              "dropout": 0.1, "dual": False, "seq_len": steps + int(rng.integers(0, 9)), "dt_min": 0.001, "dt_max": 0.1,
              "ssm_lr_vars": ["Lambda_re", "Lambda_im", "P", "B", "log_step"], **options}
    if kind == "s5" and options.get("conj_sym", True):
        config["state_dim"] = 2 * order
    params, statistics = {"encoder": {"encoder": draw_dense(rng, inputs, width)}, "decoder": draw_dense(rng, width, classes)}, {}
    for layer in range(layers):
        p = {"seq": draw_seq(rng, kind, width, order, config),
             norm_name: {"scale": rng.normal(1, 0.3, width).astype(np.float32),
                         "bias": rng.normal(0, 0.3, width).astype(np.float32)}}
        for name in {"full_glu": ["out1", "out2"], "half_glu1": ["out2"], "half_glu2": ["out2"], "gelu": []}[activation]:
            p[name] = draw_dense(rng, width, width)
        params["encoder"][f"layers_{layer}"] = p
        statistics[f"layers_{layer}"] = {norm_name: {"mean": rng.normal(0, 0.5, width).astype(np.float32),
                                                     "var": rng.uniform(0.3, 2, width).astype(np.float32)}}
    statistics = {"encoder": statistics} if norm == "batch" else None
    saved = {"params": params, "step": np.int32(5)}
    if statistics:
        saved["batch_stats"] = statistics
    export = exporter()
    tensors, settings = export.convert({"model": saved, "config": {"model": config, "train": {"lr": 0.1}}})
    if layout == "minimal-lru":  # whose checkpoints hold no configuration
        settings = {}
    export.write(tensors, settings, directory / "model.safetensors")

    if channels:
        given = rng.normal(0, 1, (2, steps, channels)).astype(np.float32)
        x = given.astype(np.float64)
    else:
        given = rng.integers(0, vocabulary, (2, steps))
        x = np.eye(vocabulary)[given]
    made = case.ALL_DEPARTURES if departures == [] else departures or []
    logits, sites = run(x, wide(params), wide(statistics) if statistics else None, config | {"departures": made}, kind, norm_name)
    case.write(directory, reference=REFERENCES[layout], tokens=given, logits=logits, transitions=sites, departures=departures,
               dtypes=("float32",) if "E8" in made and kind == "s4" else ("float64", "float32"),
               checkpoint="model.safetensors",
               settings={"prenorm": prenorm, "pooling": pooling} if layout == "minimal-lru" else None)


CASES = {
    "lru/paper/batch_post_norm": functools.partial(make, kind="lru", order=9, norm="batch", prenorm=False),
    "lru/paper/layer_pre_norm_mean": functools.partial(make, kind="lru", order=12, norm="layer", prenorm=True, pooling="mean",
                                                       channels=1),
    "lru/paper/half_glu2": functools.partial(make, kind="lru", order=5, norm="batch", prenorm=True, activation="half_glu2"),
    "lru/paper/compat": functools.partial(make, kind="lru", order=8, norm="batch", prenorm=False, departures=[]),
    "lru/minimal-lru/batch": functools.partial(make, kind="lru", layout="minimal-lru", order=7, norm="batch", prenorm=True),
    "lru/minimal-lru/layer_last": functools.partial(make, kind="lru", layout="minimal-lru", order=7, norm="layer",
                                                    prenorm=False, pooling="last"),
    "s4/paper/batch_post_norm": functools.partial(make, kind="s4", order=6, norm="batch", prenorm=False),
    "s4/paper/half_glu1_mean": functools.partial(make, kind="s4", order=4, norm="layer", prenorm=True, activation="half_glu1",
                                                 pooling="mean", channels=2),
    "s4/paper/gelu": functools.partial(make, kind="s4", order=8, norm="batch", prenorm=True, activation="gelu", layers=1),
    "s4/paper/compat": functools.partial(make, kind="s4", order=6, norm="batch", prenorm=False, departures=[]),
    "s4/paper/compat_e9": functools.partial(make, kind="s4", order=5, norm="layer", prenorm=True, departures=["E9", "E10"]),
    "s5/paper/compat": functools.partial(make, kind="s5", order=6, norm="layer", prenorm=True, departures=[]),
    "s5/paper/pairs": functools.partial(make, kind="s5", order=6, norm="batch", prenorm=True),
    "s5/paper/bilinear_clipped": functools.partial(make, kind="s5", order=5, norm="layer", prenorm=False, conj_sym=False,
                                                   clip_eigs=True, discretization="bilinear"),
}
