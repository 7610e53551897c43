#!/usr/bin/env python3
"""docs/results-small.md from runs' own records: trains and analyses recipes at the small scale, and writes the table.

    results.py data --shared DIR --out DATA              the small data sets, from the test data
    results.py run --bin BIN --data DATA [--only a,b]    a record a recipe in docs/results-small/
    results.py table [--check]                           the table from the records; --check: is the page what they make?

`run` prints each command as the page shows it. The analysis draws its examples with another seed than the training and its
evaluations did; for the tasks that read files, the seed only orders them. The untrained model is the one that training
began from (its initial seed). One training at a time.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, RECORDS = ROOT / "docs/results-small.md", ROOT / "docs/results-small"
TASKS = ["mqar", "listops", "imdb", "cifar-10", "wikitext-103"]
MODELS = ["softmax-attention", "linear-attention", "norm-attention", "mamba2", "s4", "lru"]
BINS = ["[0, .1)", "[.1, .5)", "[.5, .9)", "[.9, 1]", "(1, 10]", "(10, 100]", "(100, ∞)"]
# What one reaches who has learnt nothing of the task but its answers' frequencies, and who that is.
CHANCE = {"mqar": (0.25, "1/4, of one who names some value of the context"),
          "listops": (0.122, "0.122, of one who always gives the commonest answer (of 50,000 expressions)"),
          "imdb": (0.5, "1/2"), "cifar-10": (0.1, "1/10"), "wikitext-103": (512, "a perplexity of 512, as large as the vocabulary")}
SEED = 1


def prepare(shared, out):
    """IMDb's 500 reviews of each split, 1500 + 500 pictures, and WikiText's valid and test articles with tok512."""
    data = pathlib.Path(shared) / "data"
    cifar, text = pathlib.Path(out) / "cifar-10", pathlib.Path(out) / "wikitext-103"
    for folder in (cifar, text):
        folder.mkdir(parents=True, exist_ok=True)
    picture = 3073
    pictures = (data / "cifar10/test_batch_subset.bin").read_bytes()
    for batch in range(5):
        (cifar / f"data_batch_{batch + 1}.bin").write_bytes(pictures[batch * 300 * picture:(batch + 1) * 300 * picture])
    (cifar / "test_batch.bin").write_bytes(pictures[1500 * picture:2000 * picture])
    links = {out / pathlib.Path("imdb"): data / "aclImdb", text / "wiki.valid.tokens": data / "wikitext-2/wiki.valid.tokens",
             text / "wiki.test.tokens": data / "wikitext-2/wiki.test.tokens",
             text / "tok512.bin": data / "checkpoints/stories260K/tok512.bin"}
    for link, target in links.items():
        if not link.exists():
            link.symlink_to(target.resolve())


def commands(recipe):
    """As the page shows them, DATA and all."""
    task, model = recipe.split("/")
    data = [] if task in ("mqar", "listops") else ["--data", f"DATA/{task}"]
    checkpoint = f"{task}-{model}.safetensors"
    return [["eigsvc", "train", "--recipe", recipe, "--scale", "small", *data, "--out", checkpoint, "-o", "json"],
            ["eigsvc", "analyze", "--checkpoint", checkpoint, "--task", task, *data, "--seed", str(SEED), "--examples", "500",
             "--compare-twin", "1919", "-o", "json"]]


def distribution(analysis):
    return {"score": analysis["score"], "layers": [{key: layer[key] for key in ("layer", "mixer", "count", "paper_bins")}
                                                   for layer in analysis["layers"]]}


def call(command, binaries, data, folder):
    print(shlex.join(command), file=sys.stderr, flush=True)
    real = [str(pathlib.Path(binaries).resolve() / "eigsvc"), *(part.replace("DATA/", f"{data}/") if part.startswith("DATA/")
                                                                else part for part in command[1:])]
    done = subprocess.run(real, capture_output=True, text=True, check=False, cwd=folder,
                          env=dict(os.environ, OMP_NUM_THREADS="1"))
    if done.returncode != 0:
        sys.exit(f"{shlex.join(real)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def settings(recipe, eigsvc):
    """The flags that the recipe comes to."""
    described = subprocess.run([str(eigsvc), "recipes", "describe", recipe, "--scale", "small"], check=True, capture_output=True, text=True)
    return json.loads(described.stdout)


def run(recipe, binaries, data, folder):
    """The record of one row."""
    train, analyze = commands(recipe)
    training = call(train, binaries, data, folder)
    analysis = call(analyze, binaries, data, folder)
    return {"recipe": recipe, "commands": [shlex.join(command) for command in (train, analyze)],
            "settings": settings(recipe, pathlib.Path(binaries).resolve() / "eigsvc"), "parameters": training["model"]["parameters"], "seed": training["task"]["seed"],
            "training": {key: training[key] for key in ("steps", "best_step", "best", "last", "final_loss", "seconds")},
            "versions": training["versions"], "trained": distribution(analysis), "untrained": distribution(analysis["twin"])}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def score(record):
    interval = record["ci95"]
    digits = 3 if record["metric"] == "accuracy" else 1
    return f"{record['value']:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def learned(task, training):
    """Does the interval of the last evaluation, which nothing was chosen by, lie on the better side of chance as a whole?"""
    last, chance = training["last"], CHANCE[task][0]
    low, high = last["ci95"]
    return "yes" if (low > chance if last["metric"] == "accuracy" else high < chance) else "no"


def share(value):
    return "0" if value == 0 else f"{100 * value:.1f}"


def bins_of(layer):
    return [share(entry) for entry in layer["paper_bins"]]


def table():
    """The page."""
    records = {f"{task}/{model}": read(path) for task in TASKS for model in MODELS
               if (path := RECORDS / f"{task}-{model}.json").exists()}
    lines = ["# Small trainings and their spectra", "",
             "Made by `models/recipes/results.py` from the records in [results-small/](results-small); a test holds this page to them.",
             "The recipes are the paper's (arXiv 2510.09379) at the scale `small`: models of two layers and width 64, made to train on",
             "two cores in minutes. They show what the pieces do; they are no reproduction of the paper. One seed a row, one thread of a",
             "busy two-core machine (the seconds say as much about that), float32. Scores are those of the best checkpoint by evaluation",
             "on 500 test examples, with 95 % intervals. MQAR and ListOps draw the 500 anew; of the other tasks they are among those that",
             "chose the checkpoint, so these scores are a little too good. *Learned* is *no* where the interval of the training's last",
             "evaluation, which nothing was chosen by, does not lie beyond chance as a whole: such a row shows the spectra of a training",
             "that did not work at this scale.",
             "Shares of |λ| in the paper's seven bins are in percent, over all units and steps of a layer, exact definition.", "",
             "IMDb: 250 + 250 reviews for each split. CIFAR-10: 1500 + 500 pictures of a JPEG copy. WikiText: the valid articles to train,",
             "the test articles to test, in tok512's 512 pieces. `DATA` is what `results.py data` makes."]
    missing = {task: [model for model in MODELS if f"{task}/{model}" not in records] for task in TASKS}
    if any(missing.values()):
        lines += ["", "Not run yet:", ""]
        lines += [f"- {task}: " + ("all" if models == MODELS else ", ".join(models)) for task, models in missing.items() if models]
    for task in TASKS:
        rows = [(model, records[f"{task}/{model}"]) for model in MODELS if f"{task}/{model}" in records]
        if not rows:
            continue
        metric = rows[0][1]["trained"]["score"]["metric"]
        lines += ["", f"## {task}", "", f"Chance: {CHANCE[task][1]}.", "",
                  f"| model | parameters | {metric} | learned | untrained | best step of | seconds |", "|---|---|---|---|---|---|---|"]
        for model, record in rows:
            training = record["training"]
            lines.append(f"| {model} | {record['parameters']:,} | {score(record['trained']['score'])} | "
                         f"{learned(task, training)} | "
                         f"{score(record['untrained']['score'])} | {training['best_step']:,} of {training['steps']:,} | "
                         f"{training['seconds']:.0f} |")
        lines += ["", "| model | layer | | " + " | ".join(BINS) + " |", "|---|---|---|" + "---|" * len(BINS)]
        for model, record in rows:
            for which in ("untrained", "trained"):
                for layer in record[which]["layers"]:
                    lines.append(f"| {model} | {layer['layer']} | {which} | " + " | ".join(bins_of(layer)) + " |")
        lines += ["", "```sh", *(command for _, record in rows for command in record["commands"]), "```"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data")
    data.add_argument("--shared", required=True)
    data.add_argument("--out", required=True, type=pathlib.Path)
    runs = verbs.add_parser("run")
    runs.add_argument("--bin", required=True)
    runs.add_argument("--data", default="")
    runs.add_argument("--only", default="", help="recipes, separated by commas")
    runs.add_argument("--folder", default=".", help="where checkpoints go")
    page = verbs.add_parser("table")
    page.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.verb == "data":
        prepare(arguments.shared, arguments.out)
    elif arguments.verb == "run":
        RECORDS.mkdir(exist_ok=True)
        where = pathlib.Path(arguments.data).resolve() if arguments.data else ""
        for recipe in arguments.only.split(",") if arguments.only else [f"{task}/{model}" for task in TASKS for model in MODELS]:
            record = run(recipe, arguments.bin, where, arguments.folder)
            (RECORDS / f"{recipe.replace('/', '-')}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    elif arguments.check:
        if PAGE.read_text(encoding="utf-8") != table():
            sys.exit(f"{PAGE} is not what the records make; run results.py table")
    else:
        PAGE.write_text(table(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
