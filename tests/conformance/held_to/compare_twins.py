#!/usr/bin/env python3
"""The twins of oracles/ against the code of the projects that they are twins of, from checkouts of these, on the CPU.

    compare_twins.py mamba=CHECKOUT rwkv-lm=CHECKOUT ... [--seed 7] [--family rwkv7/rwkv-lm]
    compare_twins.py --projects FOLDER ...    the checkouts in it, each under its repository's name (`make compare-twins`)
    compare_twins.py --list

A case is made by its oracle, as for conformance_check; the project's code loads the case's checkpoint and runs its inputs,
in float64 where it can. Compared are the logits and, where the project's code has log λ or Λ as tensors or as what a step of
its recurrence does, the eigenvalues. The bound of the logits is what the oracle's `case.held_to` claims, relative to the
largest; of the eigenvalues, README.md's. Exits with 1 where one is exceeded. A checkout of another commit than the claim's is
compared all the same.

Needs the oracles' packages, einops, and what the docstring of a project's file names; not part of `make test`, as the
checkouts are not ours.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# Name -> the file that loads and runs it.
PROJECTS = {"mamba": "state_spaces_mamba", "paper": "eigenvalue_paper", "rwkv-lm": "rwkv_lm", "fla": "flash_linear_attention",
            "s4": "state_spaces_s4", "minimal-lru": "minimal_lru", "mingru": "mingru_pytorch", "xlstm": "nx_ai_xlstm",
            "zoology": "hazyresearch_zoology", "ssm-benchmark": "ssm_benchmark", "based": "hazyresearch_based",
            "recurrentgemma": "deepmind_recurrentgemma"}
# Their repositories, where these have other names.
REPOSITORIES = {"paper": "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models", "rwkv-lm": "RWKV-LM",
                "fla": "flash-linear-attention", "minimal-lru": "minimal-LRU", "mingru": "minGRU-pytorch"}


def conformance_run():
    spec = importlib.util.spec_from_file_location("conformance_run", HERE.parent / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases_of(project, names):
    """The cases that a project's file says it runs, read without importing it."""
    text = (HERE / f"{PROJECTS[project]}.py").read_text()
    prefixes = json.loads(re.search(r"^CASES = (\[.*?\])$", text, re.S | re.M)[1])
    return [name for name in names if any(f"{name}/".startswith(f"{prefix}/") for prefix in prefixes)]


def chosen(names, family):
    """Those of the cases that --family asks for."""
    prefixes = family.split(",") if family else [""]
    return [name for name in names if any(not prefix or f"{name}/".startswith(f"{prefix}/") for prefix in prefixes)]


def checkouts_in(folder, family, names):
    """Name -> checkout of the projects that have such cases; exits naming those that are not there."""
    wanted = {project: folder / REPOSITORIES.get(project, project) for project in PROJECTS
              if chosen(cases_of(project, names), family)}
    missing = [path.name for path in wanted.values() if not path.is_dir()]
    if missing:
        sys.exit(f"{folder} lacks checkouts of {', '.join(missing)}: clone them there under these names (README.md has their owners and "
                 "commits), or name cases that need fewer of them")
    return wanted


def claim(reference):
    """Twin, project and distance of what case.held_to returned."""
    return re.fullmatch(r"(.*), held to (.*) within (\S+)", reference).groups()


def rows(results):
    """By twin and claim: cases, of these with eigenvalues, and the largest differences."""
    found = {}
    for result in results:
        found.setdefault((result["commit"], result["reference"]), []).append(result)
    for (commit, reference), group in found.items():
        twin, held_to, distance = claim(reference)
        eigenvalues = []
        for exact, words in ((True, ""), (False, " in float32")):
            compared = [result["eigenvalues"] for result in group if result["compared"] and result["exact"] == exact]
            eigenvalues += [f"{max(compared):.2g}{words} ({len(compared)})"] if compared else []
        worst = max(result["logits"] for result in group)
        yield {"twin": re.search(r"oracles/\w+\.py", twin)[0], "claim": held_to, "commit": commit, "cases": len(group),
               "logits": worst, "distance": float(distance), "eigenvalues": ", ".join(eigenvalues) or "-",
               "fails": worst > float(distance) or any(result["share"] > 1 for result in group)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", metavar="PROJECT=CHECKOUT", help="of " + ", ".join(PROJECTS))
    parser.add_argument("--projects", type=pathlib.Path, metavar="FOLDER", help="where the checkouts are")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", help="FAMILY, FAMILY/LAYOUT or a whole case name; several with commas")
    parser.add_argument("--verbose", action="store_true", help="every case's differences")
    parser.add_argument("--list", action="store_true", help="print what each project's file compares and stop")
    arguments = parser.parse_args()
    conformance = conformance_run()
    makers = conformance.all_cases()
    if arguments.list:
        for project in PROJECTS:
            print("\n".join(f"{project}: {name}" for name in cases_of(project, makers)))
        return
    if arguments.projects:
        wanted = checkouts_in(arguments.projects, arguments.family, makers)
    else:
        wanted = dict(text.split("=", 1) for text in arguments.checkouts)
    if not wanted or not set(wanted) <= set(PROJECTS):
        parser.error(f"--projects FOLDER or PROJECT=CHECKOUT is wanted, of the projects {', '.join(PROJECTS)}, and cases that they have")
    failed = False
    print("| project's code, commit | twin | cases | logits | claimed | log λ (cases) |\n|---|---|---|---|---|---|", flush=True)
    for project, checkout in wanted.items():
        names = chosen(cases_of(project, makers), arguments.family)
        if not names:
            continue
        with tempfile.TemporaryDirectory(prefix="eigsvc_twins_") as scratch:
            root = pathlib.Path(scratch)
            made = [root / name.replace("/", ".") for name in names
                    if conformance.make_case(name, makers[name], arguments.seed, root)]
            results = root / "results.json"
            status = subprocess.run([sys.executable, HERE / f"{PROJECTS[project]}.py", checkout, results, *made],
                                    stdout=subprocess.DEVNULL).returncode
            if status:
                print(f"{project}: its file exits with {status}", file=sys.stderr)
                failed = True
                continue
            measured = json.loads(results.read_text())
        for result in measured if arguments.verbose else []:
            print(f"  {result['name']}: logits {result['logits']:.2g}, log λ {result['eigenvalues']:.2g} "
                  f"({result['share']:.2g} of the bound) of {result['compared']} of {result['sites']} mixers", flush=True)
        for row in rows(measured):
            print(f"| {row['claim']}, run at {row['commit']} | {row['twin']} | {row['cases']} | {row['logits']:.2g} "
                  f"| {row['distance']:.2g} | {row['eigenvalues']} |{' FAILS' if row['fails'] else ''}", flush=True)
            failed = failed or row["fails"]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
