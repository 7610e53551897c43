"""NicolasZucchet/minimal-LRU: its BatchClassificationModel in float64; λ is what it hands to its scan. Needs jax and flax."""

import sys
from functools import partial
from unittest import mock

from comparison import *
import flax_models

CASES = ["lru/minimal-lru"]


def load(checkout):
    sys.path.insert(0, str(checkout))
    # Its package imports what loads datasets.
    stand_in("lru").__path__ = [str(checkout / "lru")]
    from lru import model
    return model


def run(code, case):
    variables = flax_models.variables(case)
    encoder = variables["params"]["encoder"]
    width, order = encoder["layers_0"]["seq"]["C_re"].shape
    model = code.BatchClassificationModel(
        lru=partial(code.LRU, d_hidden=order, d_model=width), d_output=len(variables["params"]["decoder"]["bias"]),
        d_model=width, n_layers=len(case.sites()), training=False, norm="batch" if variables["batch_stats"] else "layer",
        **{name: case.settings[name] for name in ("prenorm", "pooling")})
    with flax_models.recorded_scans() as (seen, scan), mock.patch.object(code, "parallel_scan", scan), \
            mock.patch.object(code.nn, "log_softmax", lambda x, axis: x):
        logits = np.asarray(model.apply(variables, flax_models.inputs(case)))
    return logits, {site: flax_models.log_of(values) for site, values in zip(case.sites(), seen, strict=True)}


if __name__ == "__main__":
    main(load, run)
