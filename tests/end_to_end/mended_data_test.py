"""A training whose data was damaged goes on once the file is mended."""

import hashlib
import json
import pathlib
import subprocess
import tempfile
import unittest

import harness

PICTURE = 3073  # a label and 3 x 32 x 32 bytes
CONFIG = {"layout": "paper", "num_layers": 1, "hidden_dim": 8, "state_dim": 4, "output_dim": 10, "input_dim": 1, "pooling": "mean"}


class MendedDataTest(unittest.TestCase):
    def train(self, folder, *arguments):
        return subprocess.run(
            [harness.options.bin / "eigsvc", "train", "--task", "cifar-10", "--data", folder / "cifar-10", "--param", "input=scalar",
             "--batch-size", "4", "--eval-examples", "8", "--seed", "3", "-o", "json", *arguments],
            capture_output=True, text=True, cwd=folder, timeout=120)

    def test_a_run_resumes_after_the_file_is_mended(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            data = folder / "cifar-10"
            data.mkdir()
            # Any bytes are pictures.
            pixels = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(97))[:PICTURE - 1]
            batch = b"".join(bytes([label]) + pixels[label:] + pixels[:label] for label in range(10))
            for file in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
                (data / f"{file}.bin").write_bytes(batch)
            fresh = ["--model", "lru", "--config", json.dumps(CONFIG)]
            first = self.train(folder, *fresh, "--steps", "6", "--eval-every", "3", "--out", "a.safetensors")
            self.assertEqual(first.returncode, 0, first.stderr)

            resume = ["--checkpoint", "./a.last.safetensors", "--resume", "--steps", "9", "--out", "b.safetensors"]
            damaged = data / "data_batch_2.bin"
            damaged.write_bytes(batch[:-100])
            failed = self.train(folder, *resume)
            self.assertEqual(failed.returncode, 67, failed.stderr)
            self.assertIn("data_batch_2.bin", failed.stderr)
            damaged.write_bytes(batch)
            mended = self.train(folder, *resume)
            self.assertEqual(mended.returncode, 0, mended.stderr)
            self.assertEqual(json.loads(mended.stdout)["steps"], 9)


if __name__ == "__main__":
    harness.main()
