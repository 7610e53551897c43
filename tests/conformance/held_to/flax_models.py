"""Models of flax from checkpoints that models/recipes/export_orbax.py made, in float64."""

import json

import jax
import numpy as np
from safetensors import safe_open

jax.config.update("jax_enable_x64", True)


def settings(case):
    """What the authors' configuration says, and case.json."""
    with safe_open(case.file, "np") as file:
        return json.loads(file.metadata()["config"]) | case.settings


def variables(case, complex_names=()):
    """Parameters and running statistics as nested dictionaries."""
    found = {"params": {}, "batch_stats": {}}
    for key, value in case.weights().items():
        *path, name = key.split(".")
        value = value.numpy()
        if path[-1] == "seq" and name in complex_names:
            value = value[..., 0] + 1j * value[..., 1]
        place = found["batch_stats" if name in ("mean", "var") else "params"]
        for part in path:
            place = place.setdefault(part, {})
        place[name] = value
    return found


def inputs(case):
    """Real inputs, or tokens as one-hot vectors."""
    given = case.inputs().numpy()
    return given if given.ndim == 3 else np.eye(len(case.weights()["encoder.encoder.kernel"]))[given]


class recorded_scans:
    """While entered, keeps the transitions at the first step of every associative scan: λ [N]."""

    def __enter__(self):
        self.scan, self.seen = jax.lax.associative_scan, []

        def recording(operator, elements, **options):
            self.seen.append(np.asarray(elements[0][0]))
            return self.scan(operator, elements, **options)

        jax.lax.associative_scan = recording
        return self.seen, recording

    def __exit__(self, *_):
        jax.lax.associative_scan = self.scan


def log_of(values):
    """log|λ| and arg λ of λ [N], as a constant transition [1,N]."""
    return {"log_magnitude": np.log(np.abs(values))[None], "phase": np.angle(values)[None]}
