#!/usr/bin/env python3
"""Trains every trainable family and layout on MQAR (L = 64, 4 pairs) and prints the score that each reaches.

    every_family.py --bin BIN_DIR [--steps N] [--jobs N] [--families a,b] [--out FILE]

The same small recipe for all of them (width about 64, two layers, the learning rates below in turn, the best one kept):
what is looked for is that a family learns at all. Chance is 1/64 for a model that knows which tokens are values. Prints
Markdown; exits with 1 when a run fails, never for a low score: docs/training.md says what was reached.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time

RATES = [1e-3, 5e-3]
TASK = ["--task", "mqar", "--param", "vocab_size=128", "--param", "input_seq_len=64", "--param", "num_kv_pairs=4"]


def train(binary, family, layout, rate, steps):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "model.safetensors"
        command = [binary, "train", "--model", family, "--config", json.dumps({"layout": layout, "vocab_size": 128}), *TASK,
                   "--steps", str(steps), "--batch-size", "64", "--learning-rate", str(rate), "--warmup-steps", "100",
                   "--weight-decay", "0.01", "--eval-every", str(max(steps // 8, 1)), "--eval-examples", "500",
                   "--stop-at-score", "0.99", "--out", str(out), "-o", "json"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return family, layout, rate, None, done.stderr.strip().splitlines()[-1:] or ["no message"]
        result = json.loads(done.stdout)
        result["seconds"] = time.monotonic() - started
        return family, layout, rate, result, None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--families", default="")
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    binary = str(pathlib.Path(arguments.bin) / "eigsvc")
    listed = json.loads(subprocess.run([binary, "models", "-o", "json"], capture_output=True, text=True, check=True).stdout)
    wanted = set(filter(None, arguments.families.split(",")))
    runs = [(family["name"], layout, rate) for family in listed["models"] if family["trainable"]
            for layout in family["layouts"] for rate in RATES if not wanted or family["name"] in wanted]
    best, failed = {}, []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for family, layout, rate, result, error in pool.map(lambda run: train(binary, *run, arguments.steps), runs):
            if error is not None:
                failed.append(f"{family} ({layout}): {error[0]}")
                continue
            score, step = result["best"]["value"], result["best_step"]
            if (family, layout) not in best or score > best[family, layout][0]:
                best[family, layout] = (score, step, rate, result["seconds"])
    lines = ["| family | layout | accuracy | step | learning rate | s |", "|---|---|---|---|---|---|"]
    for (family, layout), (score, step, rate, seconds) in sorted(best.items()):
        lines.append(f"| {family} | {layout} | {score:.4f} | {step} | {rate:g} | {seconds:.0f} |")
    text = "\n".join(lines + [f"failed: {line}" for line in failed])
    print(text)
    if arguments.out:
        pathlib.Path(arguments.out).write_text(text + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
