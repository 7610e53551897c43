"""S4 and S4D of the state-spaces/s4 repository (versions 2 to 4) against a float64 NumPy twin that runs their recurrences
one step at a time. Eigenvalues of S4 are mpmath's, in 60 digits, of the full matrix with both of each conjugate pair.

held_to/state_spaces_s4.py compares it with state-spaces/s4 e757cef, the whole models of its src and example.py in float64,
versions 2 and 3 by way of its checkpoints/convert_v3_to_v4.py: logits with seeds 1 to 5 differ by 1.9e-15 of the largest at most.
"""

import functools
import math

import numpy as np
import torch

import case
import paper_ssm

REFERENCE = case.held_to("float64 NumPy twin, step by step (oracles/s4.py)", "state-spaces/s4 e757cef", "2e-15")
TRANSFORMS = {"none": lambda x: x, "exp": np.exp, "relu": lambda x: np.maximum(x, 0) + 1e-4,
              "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0, x)}


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def affine(x, weights, name):
    weight = weights[name + ".weight"]
    y = x @ weight.reshape(weight.shape[0], -1).T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def norm(x, weights, name):
    if name + ".running_mean" in weights:
        x = (x - weights[name + ".running_mean"]) / np.sqrt(weights[name + ".running_var"] + 1e-5)
    else:
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return x * weights[name + ".weight"] + weights[name + ".bias"]


def pairs(x):
    return x[..., 0] + 1j * x[..., 1]


def diagonal(u, weights, kernel, names, options):
    """S4D: u [B,T,D] -> [B,T,M·D] without D's part, and the site."""
    step = TRANSFORMS[options["dt_transform"]](weights[kernel + names["dt"]].reshape(-1))
    frequency = TRANSFORMS[options["imag_transform"]](weights[kernel + names["imag"]])
    a = -TRANSFORMS[options["real_transform"]](weights[kernel + names["real"]]) + names["sign"] * 1j * frequency
    a = np.tile(a, (len(step) // len(a), 1))
    b = np.tile(pairs(weights[kernel + "B"])[0], (len(step) // weights[kernel + "B"].shape[1], 1)) if kernel + "B" in weights else 1
    c = pairs(weights[kernel + "C"])
    c = c if c.ndim == 3 else c[None]
    scaled = a * step[:, None]
    if options["disc"] == "zoh":
        bar_a, bar_b = np.exp(scaled), b * (np.exp(scaled) - 1) / a
    else:
        bar_a, bar_b = (1 + scaled / 2) / (1 - scaled / 2), b * step[:, None] / (1 - scaled / 2)
    h, ys = np.zeros((u.shape[0], *a.shape), complex), []
    for t in range(u.shape[1]):
        h = bar_a * h + bar_b * u[:, t, :, None]
        ys.append((2 * (c * h[:, None]).sum(-1).real).reshape(u.shape[0], -1))
    return np.stack(ys, 1), case.log_magnitude(np.log(np.abs(bar_a)), np.angle(bar_a))


def low_rank(u, weights, kernel, names, options):
    """S4, in the space of both of each conjugate pair."""
    step = TRANSFORMS[options["dt_transform"]](weights[kernel + names["dt"]].reshape(-1))
    half = -TRANSFORMS[options["real_transform"]](weights[kernel + names["real"]]) + names["sign"] * 1j * weights[kernel +
                                                                                                        names["imag"]]
    low, b, c = pairs(weights[kernel + "P"]), pairs(weights[kernel + "B"])[0], pairs(weights[kernel + "C"])
    both = lambda x: np.concatenate([x, x.conj()], -1)
    outputs, width, copies = c.shape[0], c.shape[1], half.shape[0]
    y, matrices = np.empty((*u.shape[:2], outputs * width)), []
    for d in range(width):
        s = d % copies
        p = both(low[:, s])  # [R,N]
        a = np.diag(both(half[s])) - p.T @ p.conj()
        bar_a, bar_b = paper_ssm.discrete(a, both(b[s]), step[d])
        own = np.linalg.inv(np.eye(len(a)) - np.linalg.matrix_power(bar_a, options["l_kernel"]))
        for m in range(outputs):
            y[..., m * width + d] = paper_ssm.run_state(bar_a, bar_b, both(c[m, d]) @ own, u[..., d])
        matrices.append(a)
    return y, paper_ssm.bilinear_multiset(matrices, step)


# Where the versions put a layer's parts, and what they call them; sign: of Im A.
V4 = {"dt": "inv_dt", "real": "A_real", "imag": "A_imag", "sign": -1}
PLACES = {
    ("model", "4"): ("model.layers.#.layer.layer.", "kernel.", "model.layers.#.layer.output_linear.0", V4),
    ("model", "3"): ("model.layers.#.layer.", "kernel.kernel.", "model.layers.#.layer.output_linear.0",
                     {"dt": "log_dt", "real": "inv_w_real", "imag": "w_imag", "sign": 1}),
    ("model", "2"): ("model.layers.#.layer.", "kernel.kernel.", "model.layers.#.layer.output_linear.0",
                     {"dt": "log_dt", "real": "log_w_real", "imag": "w_imag", "sign": 1}),
    ("model", "3d"): ("model.layers.#.layer.", "kernel.kernel.", "model.layers.#.layer.output_linear.0",
                      {"dt": "log_dt", "real": "inv_A_real", "imag": "A_imag", "sign": 1}),
    ("example", "4"): ("s4_layers.#.layer.", "kernel.", "s4_layers.#.output_linear.0", V4),
    ("example", "3"): ("s4_layers.#.", "kernel.kernel.", "s4_layers.#.output_linear.0",
                       {"dt": "log_dt", "real": "inv_w_real", "imag": "w_imag", "sign": 1}),
    ("example", "minimal"): ("s4_layers.#.", "kernel.", "s4_layers.#.output_linear.0",
                             {"dt": "log_dt", "real": "log_A_real", "imag": "A_imag", "sign": 1}),
}
DEFAULTS = {"dt_transform": "exp", "real_transform": "exp", "imag_transform": "none", "disc": "zoh"}


def kernel_shapes(kind, version, width, order, copies, outputs, rank, names):
    if version == "minimal":
        return {"C": (width, order, 2), names["dt"]: (width,), names["real"]: (width, order), names["imag"]: (width, order)}
    shapes = {"C": (outputs, width, order, 2), "B": (1, copies, order, 2), names["real"]: (copies, order),
              names["imag"]: (copies, order), names["dt"]: (width, 1) if version == "4" else (width,)}
    if kind == "s4":
        shapes["P"] = (rank, copies, order, 2)
    return shapes


def draw(rng, name, shape, options, names):
    if name == names["dt"]:
        step = rng.uniform(0.02, 0.3, shape)
        return {"exp": np.log, "softplus": lambda x: np.log(np.expm1(x))}[options["dt_transform"]](step)
    if name == names["real"]:
        return {"none": np.abs, "relu": lambda x: x}.get(options["real_transform"], lambda x: x - 0.7)(rng.normal(0.3, 0.5, shape))
    if name == names["imag"]:
        # One of each conjugate pair, as it is stored.
        frequency = rng.uniform(0.2, 9, shape)
        return np.log(frequency) if options["imag_transform"] == "exp" else -names["sign"] * frequency
    return rng.normal(0, 0.5, shape)


def make(directory, rng, *, kind, backbone, version, order, copies=1, outputs=1, rank=1, prenorm=True, batch_norm=False,
         tokens=True, pooling="none", layers=2, ckpt=False, **options):
    options = DEFAULTS | options
    width, vocabulary, classes = 12, 48, 7 if pooling != "none" else 48
    inner, kernel, output, names = PLACES[backbone, version]
    example, minimal = backbone == "example", version == "minimal"
    steps = int(rng.integers(20, 60))
    options["l_kernel"] = steps + int(rng.integers(0, 9))
    channels = 2 if example else vocabulary
    encoder, decoder = ("encoder", "decoder") if example else ("encoder.0", "decoder.0.output_transform")
    shapes = {encoder + ".weight": (vocabulary, width) if tokens else (width, channels), decoder + ".weight": (classes, width),
              decoder + ".bias": (classes,)}
    if not tokens:
        shapes[encoder + ".bias"] = (width,)
    stored, kernels = {}, {}
    norms = [("norms.#" if example else "model.layers.#.norm.norm").replace("#", str(i)) for i in range(layers)]
    if not example and prenorm:
        norms.append("model.norm.norm")
    for name in norms:
        shapes.update({name + ".weight": (width,), name + ".bias": (width,)})
        if batch_norm:
            stored[name + ".running_mean"] = rng.normal(0, 0.5, width)
            stored[name + ".running_var"] = rng.uniform(0.3, 2, width)
    for layer in range(layers):
        place = inner.replace("#", str(layer))
        shapes[place + "D"] = (width,) if minimal else (outputs, width)
        linear = output.replace("#", str(layer))
        shapes.update({linear + ".weight": (2 * width, width, 1) if minimal else (2 * width, outputs * width),
                       linear + ".bias": (2 * width,)})
        for name, shape in kernel_shapes(kind, version, width, order, copies, outputs, rank, names).items():
            stored[place + kernel + name] = draw(rng, name, shape, options, names)
    for name, shape in shapes.items():
        stored[name] = rng.normal(float(name.endswith(("norm.weight",)) or (name.startswith("norms.") and
                                                                           name.endswith("weight"))), 0.4, shape)
    stored = {name: value.astype(np.float32) for name, value in stored.items()}
    saved = {name: torch.from_numpy(value) for name, value in stored.items()}
    for layer in range(layers):
        place = inner.replace("#", str(layer)) + kernel
        if kind == "s4":
            saved[place + ("l_kernel" if version == "4" else "L")] = torch.tensor(options["l_kernel"])
    for name in norms if batch_norm else []:
        saved[name + ".num_batches_tracked"] = torch.tensor(7)
    if ckpt:  # as Lightning saves it, with the configuration that the training framework gives it
        layer = {"_name_": kind, "d_state": 2 * order, "channels": outputs, **{name: options[name] for name in DEFAULTS}}
        configuration = {"model": {"_name_": "model", "layer": layer, "prenorm": prenorm, "n_layers": layers, "d_model": width,
                                   "norm": "batch" if batch_norm else "layer"},
                         "decoder": {"_name_": "sequence", "mode": "last"}, "dataset": {"_name_": "wt103", "l_max": steps}}
        torch.save({"state_dict": saved, "epoch": 3, "global_step": 11, "hyper_parameters": configuration}, directory / "last.ckpt")
    elif example:
        torch.save({"model": saved, "acc": 0.5, "epoch": 3}, directory / "last.ckpt")
    else:
        torch.save(saved, directory / "last.ckpt")

    weights = {name: value.astype(np.float64) for name, value in stored.items()}
    if tokens:
        given = rng.integers(0, vocabulary, (2, steps))
        x = weights[encoder + ".weight"][given]
    elif example:
        given = rng.normal(0, 1, (2, steps, channels)).astype(np.float32)
        x = affine(given.astype(np.float64), weights, encoder)
    else:
        given = rng.integers(0, vocabulary, (2, steps))
        x = affine(np.eye(vocabulary)[given], weights, encoder)
    sites = {}
    for layer in range(layers):
        place = inner.replace("#", str(layer))
        u = norm(x, weights, norms[layer]) if prenorm else x
        y, site = (low_rank if kind == "s4" else diagonal)(u, weights, place + kernel, names, options)
        sites[f"layers.{layer}.{kind}"] = site
        skip = np.atleast_2d(weights[place + "D"])
        y = y + (u[:, :, None, :] * skip).reshape(y.shape)
        first, second = np.split(affine(gelu(y), weights, output.replace("#", str(layer))), 2, -1)
        x = x + first / (1 + np.exp(-second))
        if not prenorm:
            x = norm(x, weights, norms[layer])
    if not example and prenorm:
        x = norm(x, weights, "model.norm.norm")
    if example or pooling == "mean":
        x = x.mean(1, keepdims=True)
    elif pooling == "last":
        x = x[:, -1:]
    settings = {"prenorm": prenorm}
    if not minimal and version == "4":
        settings["dt_transform"] = options["dt_transform"]
    settings.update({name: options[name] for name in ("real_transform", "imag_transform", "disc") if options[name] != DEFAULTS[name]})
    if ckpt:  # its configuration has them
        settings = {}
    if not example:
        settings["pooling"] = pooling
    case.write(directory, reference=REFERENCE, tokens=given, logits=affine(x, weights, decoder), transitions=sites,
               dtypes=("float64", "float32"), checkpoint="last.ckpt", settings=settings)


s4, s4d = functools.partial(make, kind="s4"), functools.partial(make, kind="s4d")
CASES = {
    "s4/state-spaces/version_4": functools.partial(s4, backbone="model", version="4", order=3, copies=2, outputs=2,
                                                   batch_norm=True, dt_transform="softplus", ckpt=True),
    "s4/state-spaces/version_4_rank_2": functools.partial(s4, backbone="model", version="4", order=2, rank=2, prenorm=False,
                                                          pooling="mean", real_transform="softplus"),
    "s4/state-spaces/version_3": functools.partial(s4, backbone="model", version="3", order=3, copies=12, tokens=False,
                                                   pooling="last"),
    "s4/state-spaces/version_2": functools.partial(s4, backbone="model", version="2", order=3, copies=1, batch_norm=True,
                                                   prenorm=False),
    "s4/state-spaces/example": functools.partial(s4, backbone="example", version="4", order=3, copies=12, tokens=False,
                                                 pooling="mean"),
    "s4/state-spaces/example_version_3": functools.partial(s4, backbone="example", version="3", order=4, tokens=False,
                                                           prenorm=False, pooling="mean"),
    "s4d/minimal/pre_norm": functools.partial(s4d, backbone="example", version="minimal", order=5, tokens=False, pooling="mean"),
    "s4d/minimal/post_norm": functools.partial(s4d, backbone="example", version="minimal", order=3, tokens=False, prenorm=False,
                                               pooling="mean"),
    "s4d/state-spaces/version_4": functools.partial(s4d, backbone="model", version="4", order=5, copies=3, outputs=2,
                                                    batch_norm=True, ckpt=True),
    "s4d/state-spaces/bilinear": functools.partial(s4d, backbone="model", version="4", order=4, disc="bilinear", prenorm=False,
                                                   dt_transform="softplus", real_transform="relu", imag_transform="exp"),
    "s4d/state-spaces/version_3": functools.partial(s4d, backbone="model", version="3d", order=4, copies=12, pooling="mean"),
}
