#!/usr/bin/env python3
"""clang-tidy over what is compiled for the CPU but for tests/, unity files as a whole: tidy.py BUILD_DIR. A source that was clean
is looked at again when its object is newer."""

import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
build = pathlib.Path(sys.argv[1]).resolve()


def ours(entry):
    path = pathlib.Path(entry["file"]).relative_to(ROOT)
    return path.suffix != ".cu" and not path.name.endswith(".pb.cc") and path.parts[0] != "tests"


def made(entry):
    words = shlex.split(entry["command"])
    return build / words[words.index("-o") + 1]


def stamp(entry):
    return made(entry).with_suffix(".tidy")


def stale(entry):
    if not made(entry).exists():
        return False  # of a program that was not built
    if not stamp(entry).exists():
        return True
    return stamp(entry).stat().st_mtime < max(path.stat().st_mtime for path in (made(entry), ROOT / ".clang-tidy"))


def look(entry):
    done = subprocess.run(["clang-tidy-14", "-p", build, "--quiet", entry["file"]], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode == 0:
        stamp(entry).touch()
    else:
        print(done.stdout or done.stderr, flush=True)
    return done.returncode


todo = [entry for entry in json.loads((build / "compile_commands.json").read_text()) if ours(entry) and stale(entry)]
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    sys.exit(1 if any(list(pool.map(look, todo))) else 0)
