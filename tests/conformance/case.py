"""What an oracle hands over: one case directory, as README.md describes it."""

import json

import numpy as np
from safetensors.numpy import save_file


ALL_DEPARTURES = [f"E{i}" for i in range(1, 11)]  # of definition PAPER_COMPAT


class SharedDataMissing(Exception):
    """Raised by a case that needs the shared test data where there is none."""


def log_magnitude(values, phase=None):
    """log|λ| [B,T',U,K], or [U,K] of a constant transition, in the order in which the model stores it."""
    tensors = {"log_magnitude": values}
    if phase is not None:
        tensors["phase"] = phase
    return tensors


def softmax(log_sum_exps):
    """log λ_i = LSE_{i-1} - LSE_i of log-sum-exps [B,H,T]: a difference of large numbers, which is judged by their size."""
    values = (log_sum_exps[..., :-1] - log_sum_exps[..., 1:]).transpose(0, 2, 1)[..., None]
    return {"log_magnitude": values, "subtracted": np.array([np.abs(log_sum_exps).max()])}


def multiset(eigenvalues, norm, condition):
    """Eigenvalues [B,T',U,N] (or [U,N]) in any order, every one as often as it occurs; the norm of their matrices and the
    condition of their eigenvectors [B,T',U] (or [U])."""
    return {"eigenvalues.re": eigenvalues.real, "eigenvalues.im": eigenvalues.imag, "norm": norm, "condition": condition}


def dense(matrices):
    """Eigenvalues of explicit Λ [B,T',U,N,N] (or [U,N,N]) by NumPy's general solver."""
    values, vectors = np.linalg.eig(matrices)
    return multiset(values + 0j, np.linalg.norm(matrices, 2, axis=(-2, -1)), np.linalg.cond(vectors))


def held_to(twin, project, within):
    """A twin as a reference, and the project and commit whose own code on the same weights gives logits that differ by as much of
    the largest at most: held_to/compare_twins.py measures it."""
    return f"{twin}, held to {project} within {within}"


def write(directory, *, reference, tokens, logits, transitions, dtypes=("float32",), layer_inputs=(), checkpoint="checkpoint",
          settings=None, tolerances=None, departures=None, gauge=None, rotation=None):
    """Writes expected.safetensors and case.json.

    reference    the independent implementation and its version
    tokens       [B,T], or real inputs [B,T,C], which are stored as `inputs`
    logits       [B,T,V], or [B,1,V] of a model that answers once a sequence
    transitions  "layers.N.MIXER" -> what log_magnitude, softmax, multiset or dense returned (or several of them merged)
    dtypes       what the checkpoint is loaded as: float64 only where the oracle itself ran in float64
    layer_inputs x [B,T,D] before each layer and after the last, in float64: then float32 is judged layer by layer
    checkpoint   name in `directory` of the saved checkpoint: a folder or a file
    settings     what a user would have to pass with --config, for checkpoints that do not say it
    departures   ["E1", ...] of definition PAPER_COMPAT, where the transitions are not the model's own; []: all it has
    gauge        "raw" or "dsf", and
    rotation     "io" or "state", where the transitions are not of the model's defaults
    tolerances   {"logits" | "eigenvalues": {dtype: value, ..., "reason": text}} where README.md's do not fit
    """
    tokens = np.asarray(tokens)
    real = np.issubdtype(tokens.dtype, np.floating)
    tensors = {"inputs" if real else "tokens": tokens if real else tokens.astype(np.int64), "logits": np.asarray(logits)}
    for layer, x in enumerate(layer_inputs):
        tensors[f"layers.{layer}.input"] = np.asarray(x, dtype=np.float64)
    for site, parts in transitions.items():
        for name, values in parts.items():
            tensors[f"{site}.{name}"] = np.asarray(values, dtype=np.float64)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, directory / "expected.safetensors")
    facts = {"reference": reference, "dtypes": list(dtypes), "checkpoint": checkpoint}
    if settings:
        facts["settings"] = settings
    if departures is not None:
        facts["departures"] = departures
    if gauge:
        facts["gauge"] = gauge
    if rotation:
        facts["rotation"] = rotation
    if tolerances:
        facts["tolerances"] = tolerances
    (directory / "case.json").write_text(json.dumps(facts, indent=1) + "\n")


def add_facts(directory, **facts):
    path = directory / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts, indent=1) + "\n")
