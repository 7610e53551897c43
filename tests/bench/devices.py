"""An analysis shared by several CUDA devices beside the same on the first of them, by two daemons that are asked in turn.

    devices.py --bin build-cuda/bin [--devices cuda:0+cuda:1] [--rounds 5] [--examples 2048]

MQAR of 2048 steps, models with fresh weights in bfloat16; weights are loaded before the first round. Seconds are the analysis' own
(`seconds.total` of its result); both must give the same sites, to the bit.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
from device_daemon import daemon  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--devices", default="cuda:0+cuda:1")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--examples", type=int, default=2048)
arguments = parser.parse_args()
MODELS = {
    "llama": {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 16, "intermediate_size": 2816},
    "mamba2": {"hidden_size": 768, "num_hidden_layers": 12, "state_size": 128},
}


def analyze(server, model, examples):
    config = json.dumps({**MODELS[model], "vocab_size": 8192})
    command = [arguments.bin / "eigsvc", "analyze", "--server", server, "--model", model, "--init-seed", "3", "--config", config,
               "--task", "mqar", "--param", "vocab_size=8192", "--param", "input_seq_len=2048", "--param", "num_kv_pairs=64",
               "--examples", str(examples), "--batch-size", "16", "--dtype", "bfloat16", "-o", "json", "--progress", "none"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


count = len(arguments.devices.split("+"))
one, all_of_them = arguments.devices.split("+")[0], arguments.devices
print(f"| model | examples | {one} s | {all_of_them} s | faster (min..max) | of {count} times |\n|---|---|---|---|---|---|")
with daemon(arguments.bin, one) as first, daemon(arguments.bin, all_of_them) as shared:
    for model in MODELS:
        for server in (first, shared):
            analyze(server, model, 32 * count)
        seconds, ratios = {first: [], shared: []}, []
        for number in range(arguments.rounds):
            # In turns: what comes second finds the device hotter.
            order = (first, shared) if number % 2 else (shared, first)
            results = {server: analyze(server, model, arguments.examples) for server in order}
            if results[first]["sites"] != results[shared]["sites"]:
                raise SystemExit(f"{model}: the devices' spectra differ")
            for server, result in results.items():
                seconds[server].append(result["seconds"]["total"])
            ratios.append(seconds[first][-1] / seconds[shared][-1])
        middle = statistics.median(ratios)
        print(f"| {model} | {arguments.examples} | {statistics.median(seconds[first]):.2f} | {statistics.median(seconds[shared]):.2f} "
              f"| {middle:.2f} ({min(ratios):.2f}..{max(ratios):.2f}) | {middle / count:.2f} |", flush=True)
