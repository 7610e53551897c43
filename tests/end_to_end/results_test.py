#!/usr/bin/env python3
"""docs/results-small.md is what its records make, and a row comes out again by the commands that the page shows: its
untrained model, and what it was trained to."""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

ROW = "mqar/softmax-attention"


def load(path):
    spec = importlib.util.spec_from_file_location("results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(what, now, then, tolerance):
    """Scores and shares of two distributions. Another processor adds up in another order; a bin's edge may lie in between."""
    failures = []
    if abs(now["score"]["value"] - then["score"]["value"]) > tolerance:
        failures.append(f"{what}: score {now['score']['value']} was {then['score']['value']}")
    for a, b in zip(now["layers"], then["layers"], strict=True):
        if a["count"] != b["count"]:
            failures.append(f"{what}: layer {a['layer']} has {a['count']} eigenvalues, had {b['count']}")
        if max(abs(x - y) for x, y in zip(a["paper_bins"], b["paper_bins"], strict=True)) > tolerance:
            failures.append(f"{what}: layer {a['layer']}: {a['paper_bins']} was {b['paper_bins']}")
    return failures


def untrained(eigsvc, record, results):
    """The model that training began from, made anew from the recipe."""
    recipe = record["settings"]
    command = [eigsvc, "analyze", "--model", recipe["model"], "--init-seed", str(recipe["init_seed"]), "--config",
               json.dumps(recipe["config"]), "--task", recipe["task"], "--seed", str(results.SEED), "--examples", "500", "-o", "json"]
    for key, value in recipe["param"].items():
        command += ["--param", f"{key}={json.dumps(value)}"]
    return results.distribution(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--source", required=True, type=pathlib.Path)
    parser.add_argument("--shared", default="")  # as the other tests are called
    arguments = parser.parse_args()
    results = load(arguments.source / "models/recipes/results.py")
    failures = [] if results.PAGE.read_text(encoding="utf-8") == results.table() else ["the page is not what the records make"]
    record = results.read(results.RECORDS / f"{ROW.replace('/', '-')}.json")
    eigsvc = str(pathlib.Path(arguments.bin) / "eigsvc")
    for path in results.RECORDS.iterdir():
        of = results.read(path)
        if of["settings"] != results.settings(of["recipe"], eigsvc):
            failures.append(f"{path.name}: its recipe is another by now; run it again")
        if of["commands"] != [results.shlex.join(command) for command in results.commands(of["recipe"])]:
            failures.append(f"{path.name}: the commands that were run are not those of the page")
    failures += compare("untrained", untrained(eigsvc, record, results), record["untrained"], 1e-3)
    with tempfile.TemporaryDirectory() as folder:
        again = results.run(ROW, arguments.bin, "", folder)
    # Rounding moves a training: what it learns stays.
    failures += compare("trained", again["trained"], record["trained"], 0.05)
    print("\n".join(failures) or "the page and the row came out as they are")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
