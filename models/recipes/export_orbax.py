#!/usr/bin/env python3
"""Turns an Orbax checkpoint of the JAX models of arXiv 2510.09379 (S4, S5, LRU) or of minimal-LRU into safetensors.

    export_orbax.py CHECKPOINT_DIRECTORY OUT.safetensors [--config FILE.json]

Needs orbax-checkpoint (and with it jax), numpy and safetensors. The checkpoint is what the authors' train.py saves:
{"model": TrainState, "config": {"model": ..., "train": ..., "data": ...}}. Parameters keep their names, joined by dots,
without the collection's: `encoder.layers_0.seq.nu_log`; the running statistics of BatchNorm are put beside the norm's own
parameters: `encoder.layers_0.normalize.mean`. Complex arrays become real ones with a last dimension of two, real and
imaginary. The settings of the model go into the metadata's `config`, where eigsvc finds them; --config adds to them, for
checkpoints that hold none.
"""

import argparse
import json
import pathlib

import numpy as np


def flatten(tree, prefix=""):
    """{"a": {"b": x}} -> {"a.b": x}."""
    flat = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if hasattr(value, "items"):
            flat.update(flatten(value, key + "."))
        else:
            flat[key] = value
    return flat


def real(array):
    array = np.asarray(array)
    if np.iscomplexobj(array):
        array = np.stack([array.real, array.imag], axis=-1)
    return np.ascontiguousarray(array)


def plain(value):
    """A setting as JSON takes it: checkpoints hold scalars as arrays."""
    if hasattr(value, "items"):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value


def convert(tree):
    """What Orbax restores -> (tensors by name, settings of the model)."""
    model = tree["model"] if "model" in tree else tree
    tensors = {}
    for collection in ("params", "batch_stats"):
        for name, array in flatten(model.get(collection) or {}).items():
            assert name not in tensors, name
            tensors[name] = real(array)
    if not tensors:
        raise SystemExit("the checkpoint has no parameters where the authors' train.py puts them (model.params)")
    return tensors, plain((tree.get("config") or {}).get("model") or {})


def write(tensors, settings, path):
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"format": "np", "config": json.dumps(settings)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--config", type=pathlib.Path, help="settings of the model, as JSON")
    arguments = parser.parse_args()
    import orbax.checkpoint

    tree = orbax.checkpoint.PyTreeCheckpointer().restore(arguments.checkpoint.resolve())
    tensors, settings = convert(tree)
    if arguments.config:
        settings.update(json.loads(arguments.config.read_text()))
    write(tensors, settings, arguments.out)
    print(f"{arguments.out}: {len(tensors)} tensors, {sum(tensor.size for tensor in tensors.values())} parameters")


if __name__ == "__main__":
    main()
