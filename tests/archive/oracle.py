"""Checkpoints written by PyTorch and safetensors themselves, with their values as JSON beside them.

  oracle.py write FOLDER   writes files and FOLDER/expected.json: {file: {key: {dtype, shape, values}}}, or {file: null}
                           where the reader must refuse, with FOLDER/refused.json naming the words of the refusal
  oracle.py read FILE      prints the same record of a safetensors file, read by the safetensors package
"""
import argparse
import collections
import json
import pathlib
import sys
import warnings

import safetensors.torch
import torch

NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16", torch.int16: "I16",
    torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.complex64: "C64", torch.complex128: "C128",
}


def number(value):
    value = float(value.real if isinstance(value, complex) else value)
    return value if value == value and abs(value) != float("inf") else str(value)


def record(tensors):
    return {
        key: {"dtype": NAMES[t.dtype], "shape": list(t.shape), "values": [number(v) for v in t.detach().reshape(-1).tolist()]}
        for key, t in tensors.items()
    }


def all_types():
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for dtype, name in NAMES.items():
        if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            tensors[name] = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype).reshape(16, 16)
        elif dtype in (torch.float16, torch.bfloat16):
            tensors[name] = torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.uint16).view(dtype)
        elif dtype.is_complex or dtype.is_floating_point:
            tensors[name] = torch.randn(3, 5, generator=generator, dtype=dtype)
        else:
            bits = torch.randint(0, 256, (4, 64), generator=generator, dtype=torch.int32).to(torch.uint8)
            tensors[name] = bits.view(dtype) if dtype != torch.bool else bits > 127
    tensors["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 5e-324, 1.7e308], dtype=torch.float64)
    return tensors


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.tied = torch.nn.Linear(3, 4, bias=False)
        self.tied.weight = self.linear.weight
        self.register_buffer("mask", torch.ones(2, 2).tril().bool())

    def forward(self, x):
        return self.norm(self.linear(x)) + self.tied(x)


def write(folder):
    torch.manual_seed(3)
    expected, refused = {}, {}

    def save(name, value, tensors, **options):
        torch.save(value, folder / name, **options)
        expected[name] = record(tensors)

    def refuse(name, value, *words, **options):
        torch.save(value, folder / name, **options)
        refused[name] = list(words)

    types = all_types()
    save("types.pt", types, types)
    save("types4.pt", types, types, pickle_protocol=4)
    save("types5.pt", types, types, pickle_protocol=5)
    torch.serialization.set_crc32_options(False)
    save("no_checksums.pt", types, types)
    torch.serialization.set_crc32_options(True)

    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    views = {
        "whole": base, "permuted": base.permute(2, 0, 1), "slice": base[1:, ::2, 1:3], "diagonal": base[0].diagonal(),
        "expanded": base[0, 0, :1].expand(5, 3), "scalar": base[1, 2, 3], "empty": base[:0], "alias": base.view(4, 6),
        "column": base[:, :, 3], "parameter": torch.nn.Parameter(base[0].t()),
    }
    save("views.pt", views, views)
    save("ordered.pt", collections.OrderedDict(views), views)

    net = Net()
    state = net.state_dict()
    save("module.pt", state, state)
    save("parallel.pt", {"module." + k: v for k, v in state.items()}, state)
    save("compiled.pt", {"_orig_mod.module." + k: v for k, v in state.items()}, state)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    state = net.state_dict()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    save("training.pt", {
        "model": state, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "step": 12, "best": 0.25,
        "rng": torch.get_rng_state(), "config": {"d_model": 4, "eps": 1e-5, "tie": True, "name": "net", "sizes": [3, 4], "none": None},
    }, state)
    save("lightning.ckpt", {
        "epoch": 2, "pytorch-lightning_version": "2.1", "state_dict": {"model." + k: v for k, v in state.items()},
        "optimizer_states": [optimizer.state_dict()], "loops": {}, "callbacks": {},
        "hyper_parameters": {"d_model": 4, "path": pathlib.Path("/data"), "activation": torch.nn.ReLU, "seed": 2**70,
                             "size": torch.Size([2, 3]), "dtype": torch.float32, "device": torch.device("cpu")},
    }, state)
    save("namespace.pt", {"net": state, "args": argparse.Namespace(d_model=4, layers=[1, 2])}, state)
    save("defaultdict.pt", collections.defaultdict(list, state), state)
    save("typed.pt", {"w": torch.nn.Parameter(torch.ones(2)), "b": torch.nn.Buffer(torch.zeros(3))}, {"w": torch.ones(2), "b": torch.zeros(3)})

    safe = {k: v.contiguous() for k, v in types.items() if k != "C128"}
    safetensors.torch.save_file(safe, folder / "types.safetensors", {"format": "pt", "config": '{"d_model": 4}'})
    expected["types.safetensors"] = record(safe)

    refuse("legacy.pt", state, "legacy torch file", _use_new_zipfile_serialization=False)
    refuse("whole_module.pt", net, "__main__ Net", "state_dict")
    refuse("linear.pt", torch.nn.Linear(2, 2), "torch.nn.modules.linear Linear")
    refuse("sparse.pt", {"w": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse("quantised.pt", {"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, "quantised")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / "script.pt")
    refused["script.pt"] = ["TorchScript"]
    refuse("conjugate.pt", {"w": torch.ones(2, dtype=torch.complex64).conj()}, "conjugate")
    refuse("meta.pt", {"w": torch.ones(2, device="meta")}, "_rebuild_meta_tensor_no_storage")
    refuse("tensor.pt", torch.ones(2), "bare tensor")
    refuse("scalar.pt", 3, "no dict of tensors")

    (folder / "expected.json").write_text(json.dumps(expected))
    (folder / "refused.json").write_text(json.dumps(refused))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]))
    else:
        print(json.dumps(record(safetensors.torch.load_file(sys.argv[2]))))
