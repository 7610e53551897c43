"""Runs kernels_bench (Google Benchmark) and prints tables of its rates and of ratios between them.

    race_kernels.py --bin build-release/bin [--rounds 5] [--only eigenvalues,windows]

A row's runners are repeated in random order in a process of their own. Rates are medians of the repetitions, of matrices, windows or
bytes a second; a ratio's spread is from the slowest of one over the fastest of the other to the reverse. Above 1 ours is faster.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

RATIOS = [("ours_host", "LAPACK"), ("ours_device", "LAPACK"), ("ours_device", "cuSOLVER"), ("ours_host", "product_and_LAPACK"),
          ("ours_device", "ours_host"), ("blocks", "warps"), ("ours", "read"), ("ours", "histc"), ("ours", "CUB_even"), ("ours", "CUB_range")]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--only", help="of eigenvalues, rank-one, windows, counts; all")
parser.add_argument("--quick", action="store_true", help="the first row of each table, once, for the tests")
arguments = parser.parse_args()
program = arguments.bin / "kernels_bench"


def measure(row, runners):
    """{runner: rates}, {counter: text} and the context of all runners of a row, whose name has nothing special to a pattern."""
    done = subprocess.run([program, f"--benchmark_filter=^{row}/", f"--benchmark_repetitions={arguments.rounds}",
                           "--benchmark_enable_random_interleaving=true", "--benchmark_min_time=0.05",
                           "--benchmark_format=json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"kernels_bench ended with {done.returncode} at {row}:\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    rates, counters = {}, {}
    for run in answer["benchmarks"]:
        if run.get("error_occurred"):
            raise SystemExit(f"{run['name']}: {run['error_message']}")
        if run["run_type"] != "iteration":
            continue
        runner = run["run_name"].removeprefix(row + "/").split("/")[0]
        rates.setdefault(runner, []).append(run["items_per_second"])
        if "within_10_percent" in run:
            counters["within 10 %"] = f"{run['within_10_percent']:.2f}"
    return {runner: rates[runner] for runner in runners}, counters, answer["context"]


def print_row(line):
    print("| " + " | ".join(line) + " |", flush=True)


listed = subprocess.run([program, "--benchmark_list_tests=true"], check=True, capture_output=True, text=True).stdout
tables = {}
for name in listed.splitlines():
    table, row, runner = name.split("/")[:3]
    tables.setdefault(table, {}).setdefault(row, []).append(runner)
said_where = False
for table, rows in tables.items():
    if arguments.only and table.split()[0] not in arguments.only.split(","):
        continue
    heading = False
    for row, runners in list(rows.items())[: 1 if arguments.quick else None]:
        rates, counters, context = measure(f"{table}/{row}", runners)
        if not said_where:
            print(f"{context['threads']} threads, {arguments.rounds} rounds, Google Benchmark")
            said_where = True
        ratios = [(ours, theirs) for ours, theirs in RATIOS if ours in rates and theirs in rates]
        if not heading:
            print()
            print_row([table, *(f"{runner} /s" for runner in rates), *(f"{ours} / {theirs}" for ours, theirs in ratios), *counters])
            print_row(["---"] * (1 + len(rates) + len(ratios) + len(counters)))
            heading = True
        middle = {runner: statistics.median(values) for runner, values in rates.items()}
        print_row([row, *(f"{rate:.3g}" for rate in middle.values()),
                   *(f"{middle[ours] / middle[theirs]:.3g} ({min(rates[ours]) / max(rates[theirs]):.3g}"
                     f"..{max(rates[ours]) / min(rates[theirs]):.3g})" for ours, theirs in ratios), *counters.values()])
