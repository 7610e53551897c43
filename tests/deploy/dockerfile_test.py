"""Dockerfile without an engine: each step of the build stage finds what the steps before it have copied. Folders are filled as COPY
says, from what .dockerignore leaves; the set-up runs there as it is, the build is configured, and planned to its last file."""

import argparse
import fnmatch
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

options = None


def context():
    """Paths that the engine is sent."""
    listed = subprocess.run(["git", "-C", options.source, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    ignored = [line.rstrip("/") for line in (options.source / ".dockerignore").read_text().split()]
    return [path for path in listed.stdout.splitlines()
            if not any(fnmatch.fnmatch(path.split("/")[0], pattern) for pattern in ignored)]


def instructions(name):
    text = (options.source / "Dockerfile").read_text()
    stage = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", text, re.S | re.M).group(1)
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", stage)).splitlines()
    return [line.split(None, 1) for line in lines if line.strip()]


class DockerfileTest(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="eigsvc-image-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.environment = dict(os.environ)

    def run_step(self, command):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.root, env=self.environment, capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def copy(self, sources, target):
        for source in sources:
            found = [path for path in context() if source == "." or path == source or path.startswith(f"{source}/")]
            self.assertTrue(found, f"nothing to copy of {source}")
            for path in found:
                inside = path if source == "." else os.path.relpath(path, source)
                to = self.root / target / (pathlib.Path(source).name if target.endswith("/") and inside == "." else inside)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(options.source / path, to)

    def test_every_step_has_what_it_needs(self):
        planned = []
        for name, rest in instructions("build"):
            if name == "ARG":
                variable, value = rest.split("=")
                self.environment[variable] = value
            elif name == "COPY":
                *sources, target = rest.split()
                self.copy(sources, target)
            elif name == "RUN":
                for command in rest.split("&&"):
                    command = command.strip()
                    if command.startswith("cmake --build"):
                        planned = self.run_step(f"{command} -- -n").splitlines()
                    elif command.startswith("deploy/image/"):
                        self.assertTrue(os.access(self.root / command.split()[0], os.X_OK), command)
                    else:
                        self.run_step(command)
            else:
                self.assertIn(name, ("SHELL", "ENV", "WORKDIR"))
        for program in ("eigsvc", "eigsvcd", "eigsvc-worker"):
            self.assertTrue(any(line.endswith(f"Linking CXX executable bin/{program}") for line in planned), program)

    def test_what_runs(self):
        """Both targets: as no known user and in no shell, so that SIGTERM reaches the daemon; healthy while it answers."""
        runs = {}
        for name, rest in instructions("runtime"):
            runs.setdefault(name, []).append(rest)
        self.assertEqual(runs["USER"], ["65532:65532"])
        self.assertEqual(runs["STOPSIGNAL"], ["SIGTERM"])
        self.assertEqual(json.loads(runs["ENTRYPOINT"][0]), ["eigsvcd"])
        health = json.loads(runs["HEALTHCHECK"][0].split("CMD ")[1])
        listen = re.search(r"EIGSVC_LISTEN=\S+:(\d+)", runs["ENV"][0]).group(1)
        self.assertEqual(health, ["eigsvc", "server", "info", "--server", f"127.0.0.1:{listen}"])
        self.assertEqual(set(re.findall(r"opencontainers\.image\.(\w+)=", runs["LABEL"][0])), {"title", "description", "licenses"})
        self.assertEqual([copy for copy in runs["COPY"] if not copy.startswith("--from=build ")], [])
        self.assertNotRegex(" ".join(runs["RUN"]), "apt|pip|curl")
        for target in ("cpu", "cuda"):
            self.assertRegex((options.source / "Dockerfile").read_text(), rf"(?m)^FROM runtime AS {target}$")
            self.assertEqual({name for name, _ in instructions(target)}, {"ENV"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=pathlib.Path, required=True)
    options, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
