#!/usr/bin/env python3
"""Makes cases with independent implementations and has conformance_check compare them with ours: README.md.

    run.py --all --check build/bin/conformance_check
    run.py --family llama,mamba2 --seed 7 --keep /tmp/cases        only makes them
    run.py --core --part auto/8 --check build/bin/conformance_check   what `make test` runs
    run.py --family qwen3 --check build/bin/conformance_check --status   records that all of its cases pass

A case depends on its seed and name alone, whatever else is made in the same run.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

# Of a real checkpoint, whose scores reach 360.
ALWAYS = ["llama/meta/stories260k"]
HERE = pathlib.Path(__file__).resolve().parent
STATUS = HERE.parents[1] / "models/zoo/conformance_status.inc"  # what `eigsvc models` shows
README = HERE.parents[1] / "README.md"
sys.path[:0] = [str(HERE), str(HERE / "oracles")]

import numpy as np
import torch

import case


def all_cases():
    cases = {}
    for path in sorted((HERE / "oracles").glob("*.py")):
        for name, make in importlib.import_module(path.stem).CASES.items():
            assert len(name.split("/")) == 3 and name not in cases, f"{path.name}: {name} is not a new FAMILY/LAYOUT/CASE"
            cases[name] = make
    return cases


def core(names):
    """The first case of every family and layout, and ALWAYS."""
    firsts = {}
    for name in names:
        firsts.setdefault(name.rsplit("/", 1)[0], name)
    return [*firsts.values(), *(name for name in ALWAYS if name in names)]


def part(names, text):
    """i/n: every n-th case from the i-th on; auto/n: i from the commit, so that a commit always runs the same."""
    index, count = text.split("/")
    if index == "auto":
        commit = subprocess.run(["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        index = int(commit or "0", 16) % int(count)
    return names[int(index)::int(count)]


def selected(arguments, names):
    chosen = []
    if arguments.family:
        families = arguments.family.split(",")
        chosen += [name for name in names if any(f"{name}/".startswith(f"{family}/") for family in families)]
        unknown = [family for family in families if not any(f"{name}/".startswith(f"{family}/") for name in names)]
        if unknown:
            sys.exit(f"no case of {', '.join(unknown)}; --list shows them")
    if arguments.all:
        chosen += names
    if arguments.core:
        chosen += core(names)
    if arguments.part:
        chosen += part([name for name in names if name not in core(names)], arguments.part)
    return list(dict.fromkeys(chosen))


def make_case(name, make, seed, root):
    """False where the shared data that it needs is missing."""
    directory = root / name.replace("/", ".")
    directory.mkdir(parents=True)
    entropy = [seed, zlib.crc32(name.encode())]
    torch.manual_seed(np.random.SeedSequence(entropy).generate_state(1)[0])
    try:
        make(directory, np.random.default_rng(entropy))
    except case.SharedDataMissing as missing:
        print(f"[  SKIPPED ] 1 test: {name}: {missing} is not there")  # in the words that tests/run.sh looks for
        directory.rmdir()
        return False
    family, layout, _ = name.split("/")
    case.add_facts(directory, name=name, family=family, layout=layout)
    return True


def read_status():
    """Lines of the committed status by (family, layout)."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return {re.match(r'{"(.*?)", "(.*?)", ', line).groups(): line for line in lines}


def write_status(results, cases):
    """Replaces the lines of every family and layout of which all cases ran and passed."""
    status = read_status()
    for prefix in sorted({name.rsplit("/", 1)[0] for name in results}):
        own = [name for name in cases if name.rsplit("/", 1)[0] == prefix]
        if not all(name in results and results[name]["passed"] for name in own):
            continue
        references = "; ".join(sorted({results[name]["reference"] for name in own}))
        worst = [max(results[name][key] for name in own) for key in ("logits_float32", "logits_float64")]
        family, layout = prefix.split("/")
        status[family, layout] = f'{{"{family}", "{layout}", {len(own)}, "{references}", {worst[0]:.1e}, {worst[1]:.1e}}},'
    STATUS.write_text("".join(line + "\n" for _, line in sorted(status.items())))


def read_registry(checker):
    """What every family says of itself."""
    return json.loads(subprocess.run([checker, "--registry"], check=True, capture_output=True, text=True).stdout)


def readme_of(registry):
    """The README with the registry's table of families."""
    def row(family):
        cells = [f"`{family['name']}`", family["summary"].split(": ")[0], ", ".join(family["layouts"]), family["transition"],
                 family["reference"]]
        # What Markdown would take for a border or for emphasis: |x|, (h,c)_i.
        return "| " + " | ".join(cell.replace("|", "\\|").replace(")_", ")\\_") for cell in cells) + " |"
    table = ["| family | model | layouts | eigenvalue of a step | defined in |", "|---|---|---|---|---|",
             *map(row, sorted(registry, key=lambda family: family["name"]))]
    start, end = "<!-- families: written by make conformance -->\n\n", "\n\n<!-- end of families -->"
    text = README.read_text(encoding="utf-8")
    return text[:text.index(start)] + start + "\n".join(table) + text[text.index(end):]


def check_coverage(checker, cases, references):
    """Says where the registry, the cases (`references`: of those that ran, by name), the committed status and the README differ;
    returns whether they do."""
    registry = read_registry(checker)
    registered = {f"{family['name']}/{layout}" for family in registry for layout in family["layouts"]}
    counts = {}
    for name in cases:
        prefix = name.rsplit("/", 1)[0]
        counts[prefix] = counts.get(prefix, 0) + 1
    recorded = {f"{family}/{layout}": int(line.split(", ")[2]) for (family, layout), line in read_status().items()}
    problems = [f"{prefix} is registered and has no case: add one to tests/conformance/oracles" for prefix in
                sorted(registered - set(counts))]
    problems += [f"{prefix} has cases and is not registered" for prefix in sorted(set(counts) - registered)]
    problems += [f"{prefix}: {STATUS.name} counts {recorded.get(prefix, 0)} cases, there are {counts.get(prefix, 0)}; run "
                 f"make conformance CASES={prefix}" for prefix in sorted(set(counts) | set(recorded))
                 if recorded.get(prefix, 0) != counts.get(prefix, 0)]
    for name, reference in references.items():
        prefix = name.rsplit("/", 1)[0]
        if reference not in read_status().get(tuple(prefix.split("/")), ""):
            problems.append(f"{name} is compared with {reference}, of which {STATUS.name} says nothing; run make conformance "
                            f"CASES={prefix}")
    if README.read_text(encoding="utf-8") != readme_of(registry):
        problems.append("README.md's table of families is not what they say of themselves; run make conformance, with any CASES")
    print("".join(f"{problem}\n" for problem in problems), end="")
    return bool(problems)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", help="FAMILY, FAMILY/LAYOUT or a whole case name; several with commas")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--core", action="store_true", help="one case of every family and layout")
    parser.add_argument("--part", help="i/n or auto/n: a share of the others; auto follows the commit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="where the cases are left; by default a folder that is removed")
    parser.add_argument("--check", help="the program conformance_check")
    parser.add_argument("--device", default="cpu", help="where ours runs; on another than cpu in float32 only")
    parser.add_argument("--report", help="JSON file for its results")
    parser.add_argument("--status", action="store_true",
                        help=f"write {STATUS.name} for what ran whole and passed, and the table of families in {README.name}")
    parser.add_argument("--coverage", action="store_true",
                        help="also fail where the registry, the cases, the committed status and the README differ")
    parser.add_argument("--list", action="store_true", help="print the cases' names and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    cases = all_cases()
    names = selected(arguments, list(cases)) if not arguments.list else list(cases)
    if arguments.list:
        print("\n".join(names))
        return
    if not names:
        parser.error("nothing is selected: --family, --all, --core or --part")
    with tempfile.TemporaryDirectory(prefix="eigsvc_conformance_") as scratch:
        root = arguments.keep or pathlib.Path(scratch)
        made = [name for name in names if make_case(name, cases[name], arguments.seed, root)]
        print(f"made {len(made)} cases with seed {arguments.seed}", flush=True)
        if not arguments.check or not made:
            return
        report = pathlib.Path(arguments.report or pathlib.Path(scratch) / "report.json")
        failed = subprocess.run([arguments.check, "--report", report, "--device", arguments.device,
                                 *[root / name.replace("/", ".") for name in made]]).returncode
        if arguments.status:
            write_status({result["name"]: result for result in json.loads(report.read_text())}, list(cases))
            README.write_text(readme_of(read_registry(arguments.check)), encoding="utf-8")
        if arguments.coverage:
            references = {result["name"]: result["reference"] for result in json.loads(report.read_text())}
            failed = check_coverage(arguments.check, list(cases), references) or failed
        sys.exit(failed)


if __name__ == "__main__":
    main()
