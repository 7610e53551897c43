"""Every command that deploy/README.md shows is run, as written but for addresses, in a clone's folder. Those that need an engine
or a cluster are marked there, and are held to the files that they name."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml

import harness
from faults_test import demo
from plane_test import read_png

TOOLS = pathlib.Path(os.environ.get("EIGSVC_CACHE", pathlib.Path.home() / ".cache/eigsvc")) / "deploy-tools/bin"
MARK = "# not run here: "


def commands():
    """(command, why it is not run or None) of every line of the ```sh blocks."""
    text = (harness.options.source / "deploy/README.md").read_text()
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        first, *rest = block.strip().splitlines()
        why = first.removeprefix(MARK) if first.startswith(MARK) else None
        found += [(line, why) for line in (rest if why else [first, *rest])]
    return found


class DeployReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="eigsvc-deploy-readme-"))
        (cls.root / "build").mkdir()
        (cls.root / "build/bin").symlink_to(harness.options.bin)
        (cls.root / "deploy").symlink_to(harness.options.source / "deploy")
        cls.environment = dict(os.environ, PATH=f"{TOOLS}:{os.environ['PATH']}")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root, ignore_errors=True)

    def output(self, command):
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=self.root, env=self.environment, capture_output=True,
                              text=True, timeout=300, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def test_what_needs_neither_engine_nor_cluster(self):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        with harness.daemon() as daemon:
            *_, last = daemon.analysis.Analyze(rpc.AnalyzeRequest(spec=demo(examples=32, keep_eigenvalues=True)), timeout=200)
            here = {"127.0.0.1:50151": daemon.address, "127.0.0.1:9464": daemon.http_address,
                    "an-0123456789abcdef": last.event.analysis_id}
            ran = []
            for command, _ in (each for each in commands() if each[1] is None):
                with self.subTest(command):
                    ran.append(command)
                    actual = re.sub("|".join(here), lambda found: here[found.group()], command)
                    out = self.output(actual)
                    if command.startswith(("kubectl kustomize", "deploy/kubernetes/")):
                        self.assertTrue(all(each["metadata"]["name"] for each in yaml.safe_load_all(out)))
                    elif "eigsvc analyze" in command:
                        self.assertRegex(out, r"mqar\b")
                    elif "check metrics" in command:
                        self.assertEqual(out, "")
                    elif "promtool test" in command:
                        self.assertIn("SUCCESS", out)
                    elif command.startswith("curl"):
                        picture = read_png((self.root / re.search(r"-so (\S+)", command).group(1)).read_bytes())
                        self.assertGreater(len(set(picture.reshape(-1).tolist())), 3, "it is blank")
                    else:
                        self.fail("nothing is known of what it should do")
        self.assertEqual(len(ran), 8)

    def test_what_is_not_run_names_what_there_is(self):
        source, marked = harness.options.source, [each for each in commands() if each[1]]
        dockerfile = (source / "Dockerfile").read_text()
        rendered = {command.split()[-1] for command, why in commands() if command.startswith("kubectl kustomize")}
        built = set()
        for command, why in marked:
            with self.subTest(command):
                self.assertEqual(why, "no cluster" if "kubectl" in command else "no container engine")
                if command.startswith("docker build"):
                    target, tag = re.search(r"--target (\w+) .*-t (\S+) \.$", command).groups()
                    built.add(tag)
                    self.assertRegex(dockerfile, rf"(?m)^FROM runtime AS {target}$")
                    for argument in re.findall(r"--build-arg (\w+)=", command):
                        self.assertRegex(dockerfile, rf"(?m)^ARG {argument}\b")
                elif "docker compose" in command:
                    file, variable = re.search(r"-f (\S+)", command).group(1), command.split("=")[0]
                    self.assertIn(f"${{{variable}:-", (source / file).read_text())
                elif command.startswith("docker tag"):
                    self.assertIn(command.split()[2], built)
                elif "apply -k" in command:
                    self.assertIn(command.split()[-1], rendered)
                elif "apply -f -" in command:
                    self.assertIn(command.split(" | ")[0], [other for other, why in commands() if why is None])
                else:
                    namespace, kind, name, port = re.fullmatch(r"kubectl -n (\w+) port-forward (\w+)/(\w+) (\d+)", command).groups()
                    objects = list(yaml.safe_load_all(self.output("kubectl kustomize deploy/kubernetes/overlays/gpu")))
                    (it,) = [o for o in objects if (o["kind"].lower(), o["metadata"].get("namespace"), o["metadata"]["name"]) ==
                             (kind, namespace, name)]
                    self.assertIn(int(port), [p["containerPort"] for c in it["spec"]["template"]["spec"]["containers"] for p in c["ports"]])
        self.assertEqual(len(marked), 8)


if __name__ == "__main__":
    os.environ.pop("EIGSVC_SERVER", None)
    harness.main()
