#!/usr/bin/env python3
"""Makes cases with independent implementations and has conformance_check compare them with ours: README.md.

    run.py --all --check build/bin/conformance_check
    run.py --family llama,mamba2 --seed 7 --keep /tmp/cases        only makes them
    run.py --core --part auto/8 --check build/bin/conformance_check   what `make test` runs

A case depends on its seed and name alone, whatever else is made in the same run.
"""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
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
    """The first case of every family and layout."""
    firsts = {}
    for name in names:
        firsts.setdefault(name.rsplit("/", 1)[0], name)
    return list(firsts.values())


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
        print(f"skipped {name}: {missing} is not there")
        directory.rmdir()
        return False
    family, layout, _ = name.split("/")
    case.add_facts(directory, name=name, family=family, layout=layout)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", help="FAMILY, FAMILY/LAYOUT or a whole case name; several with commas")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--core", action="store_true", help="one case of every family and layout")
    parser.add_argument("--part", help="i/n or auto/n: a share of the others; auto follows the commit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path, help="where the cases are left; by default a folder that is removed")
    parser.add_argument("--check", help="the program conformance_check")
    parser.add_argument("--report", help="JSON file for its results")
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
        if arguments.check and made:
            command = [arguments.check, *[str(root / name.replace("/", ".")) for name in made]]
            if arguments.report:
                command += ["--report", arguments.report]
            sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
