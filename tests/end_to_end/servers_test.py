"""Two daemons behind one name, each with its own jobs and uploads: commands of many calls, through either."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import harness

MQAR = ["--task", "mqar", "--examples", "8"]


class ServersTest(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.daemons = [stack.enter_context(harness.daemon()) for _ in range(2)]
        for daemon in self.daemons:
            daemon.wait_idle()
        self.target = "ipv4:" + ",".join(daemon.address for daemon in self.daemons)
        self.directory = stack.enter_context(tempfile.TemporaryDirectory())

    def run_cli(self, *arguments):
        ran = subprocess.run([harness.options.bin / "eigsvc", "--server", self.target, *arguments], capture_output=True,
                             text=True, cwd=self.directory, timeout=120)
        self.assertEqual(ran.returncode, 0, f"{arguments}: {ran.stderr}")
        return ran.stdout

    def jobs_of(self, daemon):
        from eigsvc.v1 import analysis_service_pb2 as rpc
        return {a.analysis_id for a in daemon.analysis.ListAnalyses(rpc.ListAnalysesRequest(), timeout=10).analyses}

    def test_a_commands_calls_stay_together_and_its_job_is_found_later(self):
        shutil.copy(harness.options.source / "deploy/demo/mamba2.pt", f"{self.directory}/uploaded.pt")
        for turn in range(6):
            self.run_cli("analyze", "--checkpoint", "./uploaded.pt", *MQAR, "--compare-twin", "1", "--export", "all.safetensors")
            self.assertGreater(os.path.getsize(f"{self.directory}/all.safetensors"), 1000)
            job = self.run_cli("analyze", "--checkpoint", "mamba2.pt", *MQAR, "--detach").strip()
            watched = json.loads(self.run_cli("jobs", "watch", job, "-o", "json"))
            self.assertEqual(json.loads(self.run_cli("jobs", "get", job, "-o", "json")), watched)
        self.run_cli("train", "--model", "mamba2", "--task", "mqar", "--param", "vocab_size=64", "--param", "input_seq_len=32",
                     "--param", "num_kv_pairs=4", "--steps", "2", "--out", "trained.safetensors")
        self.run_cli("analyze", "--checkpoint", "./trained.safetensors", *MQAR)
        listed = {job["id"] for job in json.loads(self.run_cli("jobs", "list", "-o", "json"))["jobs"] if job["kind"] == "analysis"}
        apart = [self.jobs_of(daemon) for daemon in self.daemons]
        self.assertEqual(listed, apart[0] | apart[1])
        self.assertEqual(len(listed), 6 * 3 + 1)


if __name__ == "__main__":
    harness.main()
