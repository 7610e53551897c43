"""Every command the README shows is run, as written but for what the table below says of it."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness


def readme_commands():
    """The lines of the README's ```sh blocks, continuation lines joined."""
    text = (harness.options.source / "README.md").read_text()
    commands = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        commands += [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return commands


class ReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A folder that looks like a built clone, so that commands are run as written and leave nothing in the tree."""
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="eigsvc-readme-"))
        (cls.root / "build").mkdir()
        (cls.root / "build" / "bin").symlink_to(harness.options.bin)
        for name in ("deploy", "models", "README.md"):
            (cls.root / name).symlink_to(harness.options.source / name)
        if not harness.has_shared():
            return
        shared = harness.options.shared / "data" / "checkpoints" / "stories260K"
        (cls.root / "llama").mkdir()
        shutil.copy(shared / "stories260K.safetensors", cls.root / "llama" / "model.safetensors")
        ids = json.loads((shared / "golden.json").read_text())["greedy_ids"]
        import numpy
        numpy.save(cls.root / "ids.npy", numpy.array(ids, dtype=numpy.int64))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root, ignore_errors=True)

    def run_command(self, command, timeout=300):
        done = subprocess.run(["bash", "-c", command], cwd=self.root, capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def test_commands(self):
        daemon = None
        ran = []
        try:
            for command in readme_commands():
                with self.subTest(command):
                    if ("llama/" in command or "ids.npy" in command) and not harness.has_shared():
                        self.skipTest("no shared data: configure with -DEIGSVC_SHARED_DIR=/path/to/shared")
                    if command == "make demo":  # its set-up and build are what built these programs
                        self.check_demo(self.run_command("deploy/demo/demo.sh build/bin"))
                    elif command.startswith("build/bin/eigsvc train"):  # the whole recipe: recipe_test.py
                        self.run_command(command + " --steps 30 --warmup-steps 5 --eval-examples 64 --eval-every 15")
                    elif command.startswith("build/bin/eigsvcd "):  # ports and paths of this machine are left alone
                        flags = command.split(" ", 1)[1].replace("127.0.0.1:50151", f"unix:{self.root}/socket")
                        flags = flags.replace("/srv/checkpoints", "deploy/demo")
                        daemon = subprocess.Popen(
                            ["bash", "-c", f"exec build/bin/eigsvcd {flags} --http-listen '' --state-dir state --lame-duck 0s"],
                            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                        self.assertRegex(daemon.stdout.readline(), "listening unix:")
                    else:
                        out = self.run_command(command.replace("127.0.0.1:50151", f"unix:{self.root}/socket"))
                        if "-o json" in command:
                            self.assertGreater(json.loads(out)["score"]["value"], 0.98)
                    ran.append(command)
        finally:
            if daemon is not None:
                daemon.send_signal(signal.SIGTERM)
                self.assertEqual(daemon.wait(timeout=20), 0)
                daemon.stdout.close()
        self.assertGreaterEqual(len(ran), 9)

    def check_demo(self, output):
        """The output shown in the README is what the demo prints, but for times, temporary paths and the clone's own."""

        def normal(text):
            text = re.sub(r"/\S*/(socket|mamba2\.pt)", r"\1", text)
            text = re.sub(r"deploy/demo/mamba2\.pt", "mamba2.pt", text)
            return [re.sub(r"· [\d.]+ s$", "· s", line.rstrip()) for line in text.strip().splitlines()]

        shown = re.search(r"<!-- demo-output -->\n+```\n(.*?)```", (harness.options.source / "README.md").read_text(), re.S)
        self.assertIsNotNone(shown, "the README has no demo output")
        # Last digits may differ between processors: compare the text around the numbers, and the numbers loosely.
        number = re.compile(r"\d[\d,]*\.?\d*")
        for mine, theirs in zip(normal(output), normal(shown.group(1)), strict=True):
            if "▁" in theirs or "█" in theirs or "sha256" in theirs:
                continue
            self.assertEqual(number.sub("#", mine), number.sub("#", theirs))


if __name__ == "__main__":
    os.environ.pop("EIGSVC_SERVER", None)
    harness.main()
