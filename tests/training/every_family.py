#!/usr/bin/env python3
"""Trains every trainable family on MQAR (L = 64, 4 pairs) and writes docs/training.md from the runs' own records.

    every_family.py run --bin BIN_DIR [--only a,b]      a record a family in docs/training.json; those that are there stay
    every_family.py table                               the page from the records
    every_family.py check --bin BIN_DIR                 is the page what they make, and are they of every family?

One recipe for all, and what a family needs beyond it in RECIPES; the paper's families have recipes of their own for this task, and
their records are those of docs/results-small. One training at a time, on one thread.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, RECORDS = ROOT / "docs/training.md", ROOT / "docs/training.json"
CHANCE = 0.25  # of one who names some value of the context
SHARED = {"steps": 800, "batch-size": 32, "learning-rate": 3e-3, "warmup-steps": 50, "weight-decay": 0.01, "eval-every": 100,
          "eval-examples": 500, "stop-at-score": 0.9, "seed": 1, "init-seed": 1}
PARAMETERS = {"vocab_size": 128, "random_non_queries": False}
# Softmax attention finds which token to look at later, and sooner among random fillers and many tokens than among zeros.
ATTENTION = {"param": {"vocab_size": 512}, "steps": 1500, "learning-rate": 2e-3, "warmup-steps": 100, "eval-every": 250}
RECIPES = {name: ATTENTION for name in ("gpt_neox", "gpt_oss", "granite", "ministral", "mistral", "qwen2", "qwen3_5",
                                        "transformer")}
RECIPES |= {"llama": {**ATTENTION, "config": {"layout": "huggingface"}},
            "rwkv7": {**ATTENTION, "steps": 2000, "stop-at-score": 0.99}}  # 0.48 with the other
# Large batches, which a GPU takes as fast as small ones, for those that small ones taught nothing.
LARGE = {"steps": 4000, "batch-size": 128, "warmup-steps": 100, "eval-every": 200, "device": "cuda:0"}
RECIPES |= {name: {**ATTENTION, **LARGE, "steps": 5000} for name in ("gemma2", "gpt2", "olmo2", "qwen3", "zoology-transformer")}
RECIPES |= {name: LARGE for name in ("bamba", "falcon-h1", "gated_deltanet", "granite-hybrid", "kda", "linear_attn", "nemotron-h", "retnet",
                                     "zamba2")}
RECIPES |= {name: {**LARGE, "steps": 3000, "eval-every": 250} for name in ("mamba", "falcon-mamba", "recurrent-gemma")}
RECIPES |= {"based": {**ATTENTION, **LARGE, "learning-rate": 1e-3, "eval-every": 250}}
RECIPES |= {name: {**LARGE, "learning-rate": 1e-3, "eval-every": 500} for name in ("olmo3", "s5")}
RECIPES |= {name: {**ATTENTION, **LARGE, "steps": 3000, "eval-every": 500} for name in ("min-gru", "min-lstm", "s4d")}
RECIPES |= {"gla": {**LARGE, "steps": 5000, "learning-rate": 5e-3}, "hgrn2": {**LARGE, "steps": 5000}}
LONG = {"steps": 6000, "warmup-steps": 100, "eval-every": 1000}
RECIPES |= {"rnn": LONG, "xlstm": {**LONG, "config": {"embedding_dim": 32}}}
# These came furthest with few tokens.
FEW_TOKENS = {"param": {**PARAMETERS, "vocab_size": 66}, **LONG, "steps": 5000, "batch-size": 64, "learning-rate": 1e-2}
RECIPES |= {name: FEW_TOKENS for name in ("gru", "lstm")}
# Half as wide by default.
RECIPES |= {name: {**RECIPES.get(name, {}), "config": {"hidden_size": 64}}
            for name in ("delta_net", "gated_deltanet", "gla", "hgrn", "hgrn2", "kda", "linear_attn", "retnet")}
# `eigsvc train --recipe mqar/NAME --scale small`, run by models/recipes/results.py.
PAPERS = {path.stem.removeprefix("mqar-"): path for path in (ROOT / "docs/results-small").glob("mqar-*.json")}


def trainable(binary):
    """Name and first layout of each, without the paper's."""
    listed = subprocess.run([binary, "models", "-o", "json"], capture_output=True, text=True, check=True).stdout
    return {family["name"]: family["layouts"][0] for family in json.loads(listed)["models"]
            if family["trainable"] and family["name"] not in PAPERS}


def command(family, layout):
    """As the page shows it."""
    recipe = dict(RECIPES.get(family, {}))
    parameters = recipe.pop("param", PARAMETERS)
    device = ["--device", recipe.pop("device")] if "device" in recipe else []
    config = {"layout": layout, "vocab_size": parameters["vocab_size"], **recipe.pop("config", {})}
    flags = [part for key, value in {**SHARED, **recipe}.items() for part in (f"--{key}", f"{value:g}")]
    return ["eigsvc", "train", "--model", family, "--config", json.dumps(config), "--task", "mqar",
            *(part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")), *flags,
            "--out", "m.safetensors", "-o", "json", *device]


def train(binary, family, layout):
    shown = command(family, layout)
    print(shlex.join(shown), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        device = RECIPES.get(family, {}).get("device", "cpu")
        done = subprocess.run([binary, *shown[1:]], capture_output=True, text=True, check=False, cwd=folder,
                              env=dict(os.environ, OMP_NUM_THREADS="1", EIGSVC_DEVICES=device))
    if done.returncode != 0:
        sys.exit(f"{family} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout)
    return {"command": shlex.join(shown), "layout": result["model"]["layout"], "parameters": result["model"]["parameters"],
            "rate": {**SHARED, **RECIPES.get(family, {})}["learning-rate"],
            **{key: result[key] for key in ("steps", "best_step", "best", "seconds", "versions")}}


def read():
    """A record a family; None where it was not trained yet."""
    return json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}


def write(records):
    RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check(binary):
    """What is wrong with page and records."""
    records, problems = read(), []
    for family, layout in trainable(binary).items():
        if family not in records:
            problems.append(f"{family} is not in {RECORDS.name}; run every_family.py run")
        elif records[family] and shlex.join(command(family, layout)) != records[family]["command"]:
            problems.append(f"{family}: its recipe is another by now; run every_family.py run --only {family}")
    if PAGE.read_text(encoding="utf-8") != table():
        problems.append(f"{PAGE.name} is not what the records make; run every_family.py table")
    return problems


def verdict(best):
    low = best["ci95"][0]
    return "yes" if low > 2 * CHANCE else "in part" if low > CHANCE else "no"


def papers():
    records = {}
    for family, path in PAPERS.items():
        record = json.loads(path.read_text(encoding="utf-8"))
        records[family] = {"command": record["commands"][0], "layout": record["settings"]["config"]["layout"],
                           "parameters": record["parameters"], "rate": record["settings"]["learning_rate"],
                           **{key: record["training"][key] for key in ("steps", "best_step", "best", "seconds")}}
    return records


def table():
    records = {family: record for family, record in sorted({**read(), **papers()}.items()) if record}
    missing = sorted(set(read()) - set(records))
    verdicts = [verdict(record["best"]) for record in records.values()]
    lines = ["# Every trainable family, trained", "",
             f"{len(records)} of {len(records) + len(missing)} families were trained: {verdicts.count('yes')} learned, "
             f"{verdicts.count('in part')} in part, {verdicts.count('no')} not.", "",
             "Made by `tests/training/every_family.py` from [training.json](training.json), the runs' own records; a test holds this",
             "page to them, and them to the table of families. `tests/training/training_test.cc` and `tests/zoo/conformance_test.cc` hold",
             "the gradients of every family to finite differences in float64; this page shows that they also lead somewhere.", "",
             "The task is MQAR of 64 steps and 4 pairs; vocabulary, fillers and the rest are in the commands below: one recipe for all, others",
             "for softmax attention, and larger batches or more steps where the first taught nothing. The paper's six have recipes of their",
             "own. One seed, float32. Where the command names no device: one thread of a busy two-core machine (the seconds say more about",
             "that), or of a GPU's host for those of 5000 and 6000 steps; cuda:0 was an H200 or an H100, shared by up to eight trainings. The score is that of",
             "the best evaluation, on the same 500 or 1000 held-out examples each time, with its 95 % interval by bootstrap over examples. 1/4",
             "is reached by one who names some value of the context: *learned* says *yes* where the interval lies above 1/2, *in part* where",
             "it lies above 1/4. A run ends early at the score that its command says. What did not learn had this rate, this batch and these",
             "steps and no more; it is no statement about the family.", "",
             "Size of the batch decides for many. With the common recipe (batches of 32, 800 steps) these stayed near or below 1/4: bamba",
             "0.24, falcon-h1 0.26, gated_deltanet 0.04, gla 0.03, granite-hybrid 0.23, hgrn2 0.02, kda 0.15, nemotron-h 0.14, retnet 0.04,",
             "zamba2 0.04; and with attention's, 1500 steps of 32: gemma2 0.26, olmo2 0.25, olmo3 0.25, qwen3 0.20, zoology-transformer 0.25.",
             "Others that had more than one try, each counted for one seed: gpt2 0.25 in 2000 steps of 32 at 3e-3; llama 0.19 in the layout meta",
             "and 0.20 at 3e-3, each in 2000 steps; rwkv7 0.48 and qwen3_5 0.26 with the common recipe; xlstm, half as wide, 0.41 with",
             "it; mamba 0.25 with attention's at 3e-3 in 2500. With 512 tokens and random fillers, half as wide: delta_net 0.01 and",
             "gated_deltanet 0.01 in 1500 steps (at 1e-2 and 2e-3), gla 0.07 in 2000. With the common recipe at 1e-2 in 2000 steps:",
             "gated_deltanet 0.02, kda 0.06. Based stayed at 0.27 with the common recipe in 4000 steps of 128, olmo3 at 0.41 with",
             "attention's in 5000 of 128.", "",
             "What learned nothing or next to nothing here are cells of one vector (gru, lstm, rnn, min-gru, min-lstm, hgrn, rwkv4), layers whose",
             "transition is the same at every step (s4, s4d, s5, lru), and linear attention without a short convolution. gru (of 66 tokens) and",
             "min-gru are *in part* by one or two hundredths, with losses (1.42 and 1.55) of one who names some value (ln 4 = 1.39). The table has",
             "the best run of each that came to a result. Others of theirs: with the common recipe min-lstm 0.25, s4d 0.17; with it in 6000 steps",
             "of 32 gru 0.26, lstm 0.16, s5 0.21; with attention's recipe, 512 tokens and random fillers, in 3000 steps of 128 at 2e-3 hgrn 0.17,",
             "linear_attn 0.26, rwkv4 0.14, in 8000 of 64 gru 0.21 (2e-3), lstm 0.18 (3e-3); with 66 tokens and fixed fillers, in 5000 of 64, rnn",
             "0.03 (1e-3). Five went through 4000 steps of 128 with the common recipe and were ended before they gave a result: their best",
             "evaluations, without intervals, were hgrn 0.27 (5e-3), min-gru and min-lstm 0.28 (5e-3), rwkv4 0.27 and s4d 0.26 (3e-3), and their",
             "losses 1.37 to 1.61.", "",
             "| family | layout | parameters | rate | steps | seconds | accuracy | n | learned |", "|---|---|---|---|---|---|---|---|---|"]
    for family, record in records.items():
        best = record["best"]
        lines.append(f"| {family} | {record['layout']} | {record['parameters']:,} | {record['rate']:g} | "
                     f"{record['steps']:,} | {record['seconds']:.0f} | {best['value']:.3f} [{best['ci95'][0]:.3f}, {best['ci95'][1]:.3f}] | "
                     f"{best['n']} | {verdict(best)} |")
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join([*lines, "", "```sh", *(record["command"] for record in records.values()), "```"]) + "\n"


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("--bin", required=True, type=pathlib.Path)
    runs.add_argument("--only", default="", help="families, separated by commas; run again where they have a record")
    verbs.add_parser("table")
    checks = verbs.add_parser("check")
    checks.add_argument("--bin", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.verb == "table":
        PAGE.write_text(table(), encoding="utf-8")
        return 0
    binary = str((arguments.bin / "eigsvc").resolve())
    if arguments.verb == "check":
        problems = check(binary)
        print("\n".join(problems) or "docs/training.md is as it should be")
        return 1 if problems else 0
    layouts = trainable(binary)
    write({family: read().get(family) for family in layouts})
    for family in arguments.only.split(",") if arguments.only else [name for name in layouts if not read()[name]]:
        write({**read(), family: train(binary, family, layouts[family])})
    return 0


if __name__ == "__main__":
    sys.exit(main())
