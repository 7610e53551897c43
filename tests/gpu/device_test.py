"""The same analyses on the CPU and on the first CUDA device, through the programs users run, compared site by site."""

import argparse
import concurrent.futures
import json
import math
import pathlib
import subprocess
import sys
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "testing"))
from device_daemon import daemon  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--source", type=pathlib.Path, required=True)
options, rest = parser.parse_known_args()

DEMO = ["--checkpoint", str(options.source / "deploy/demo/mamba2.safetensors"), "--task", "mqar"]


def initialised(family, settings):
    mqar = ["--task", "mqar", "--param", "vocab_size=512"]
    return ["--model", family, "--init-seed", "3", "--config", json.dumps(dict(settings, vocab_size=512)), *mqar]


CASES = {
    "demo": DEMO,
    "llama": initialised("llama", {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                                   "num_key_value_heads": 2, "intermediate_size": 256}),
    "gpt2": initialised("gpt2", {"n_embd": 128, "n_layer": 2, "n_head": 4}),
}


def analyze(arguments, device, *more):
    command = [str(options.bin / "eigsvc"), "analyze", *arguments, "--device", device, "--examples", "256", "--batch-size",
               "64", "-o", "json", "--progress", "none", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


class DeviceTest(unittest.TestCase):
    def setUp(self):
        listed = subprocess.run([options.bin / "eigsvc-worker", "--list-devices"], capture_output=True, text=True)
        self.assertIn("cuda:0", listed.stdout, "this machine shows no CUDA device to LibTorch")

    def test_float32_agrees_with_the_cpu(self):
        for name, arguments in CASES.items():
            with self.subTest(name):
                cuda = analyze(arguments, "cuda:0")
                cpu = self.on_cpu(arguments)
                self.assertAlmostEqual(cuda["score"]["value"], cpu["score"]["value"], delta=0.002)
                self.assertEqual(len(cuda["sites"]), len(cpu["sites"]))
                for mine, theirs in zip(cuda["sites"], cpu["sites"]):
                    self.assertEqual((mine["layer"], mine["head"], mine["count"]),
                                     (theirs["layer"], theirs["head"], theirs["count"]))
                    a, b = mine["log_magnitude"], theirs["log_magnitude"]
                    self.assertLessEqual(abs(a["mean"] - b["mean"]), 1e-4 * max(1, abs(b["mean"])))
                    self.assertLessEqual(abs(a["std"] - b["std"]), 1e-3 * max(1e-3, b["std"]))

    def test_bfloat16_runs(self):
        for name, arguments in CASES.items():
            with self.subTest(name):
                result = analyze(arguments, "cuda:0", "--dtype", "bfloat16")
                for site in result["sites"]:
                    self.assertTrue(math.isfinite(site["log_magnitude"]["mean"]))

    def test_two_devices_work_side_by_side_with_the_same_bits(self):
        self.require_two_alike()
        with concurrent.futures.ThreadPoolExecutor() as pool, daemon(options.bin, "cuda:0,cuda:1") as server:
            for name, arguments in CASES.items():
                with self.subTest(name):
                    first, second = pool.map(lambda device: analyze(arguments, device, "--server", server),
                                             ["cuda:0", "cuda:1"])
                    self.assertEqual((first["model"]["device"], second["model"]["device"]), ("cuda:0", "cuda:1"))
                    self.assertEqual(first["sites"], second["sites"])
                    self.assertEqual(first["score"], second["score"])

    def test_two_devices_share_an_analysis_with_the_bits_of_one(self):
        self.require_two_alike()
        alone = {}
        with daemon(options.bin, "cuda:0") as server:
            for name, arguments in CASES.items():
                alone[name] = analyze(arguments, "cuda:0", "--server", server)
        with daemon(options.bin, "cuda:0+cuda:1") as server:
            for name, arguments in CASES.items():
                with self.subTest(name):
                    both = analyze(arguments, "cuda:0+cuda:1", "--server", server)
                    self.assertEqual(both["model"]["device"], "cuda:0+cuda:1")
                    self.assertEqual(both["sites"], alone[name]["sites"])
                    self.assertEqual(both["score"], alone[name]["score"])

    def require_two_alike(self):
        listed = subprocess.run([options.bin / "eigsvc-worker", "--list-devices"], capture_output=True, text=True).stdout
        if "cuda:1" not in listed:
            self.skipTest("this machine has one CUDA device")
        names = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
        if len(set(names.stdout.splitlines())) != 1:
            self.skipTest("its CUDA devices are of several kinds, whose matrix products round differently")

    def on_cpu(self, arguments):
        """A private daemon takes every CUDA device when there is one; the headless worker takes the one it is told."""
        import os
        environment = dict(os.environ, EIGSVC_DEVICES="cpu")
        command = [str(options.bin / "eigsvc"), "analyze", *arguments, "--examples", "256", "--batch-size", "64", "-o",
                   "json", "--progress", "none"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)


if __name__ == "__main__":
    unittest.main(argv=["device_test.py", *rest], verbosity=2)
