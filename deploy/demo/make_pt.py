#!/usr/bin/env python3
"""Writes deploy/demo/mamba2.pt from mamba2.safetensors with PyTorch's own torch.save.

    make_pt.py [SAFETENSORS [PT]]

The file is what a training script of one's own would leave: a state dict beside a config dict. The reader of
safetensors below is all this needs (https://github.com/huggingface/safetensors, "Format")."""

import collections
import json
import pathlib
import struct
import sys

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def read_safetensors(path):
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__", {})
    body = bytearray(data[8 + header_bytes :])
    tensors = collections.OrderedDict()
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(body[begin:end], dtype=DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors, json.loads(metadata["config"])


def main():
    here = pathlib.Path(__file__).resolve().parent
    source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "mamba2.safetensors"
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here / "mamba2.pt"
    state_dict, config = read_safetensors(source)
    torch.save({"state_dict": state_dict, "config": config}, target)


if __name__ == "__main__":
    main()
