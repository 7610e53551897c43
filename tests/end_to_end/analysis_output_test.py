"""What `eigsvc analyze -o json` writes is what docs/analysis-output.schema.json publishes, of whatever is analysed."""

import json
import os
import subprocess
import tempfile
import unittest

import jsonschema

import harness

PAPER = {"layout": "paper", "hidden_dim": 16, "state_dim": 8, "num_layers": 1}
FRESH = {  # flags, and what their output has that others have not
    "infinite multiplicity": (["--model", "llama"], lambda site, _: site["multiplicity"] is None),
    "a list of multiplicities": (
        ["--model", "delta_net", "--config", '{"hidden_size": 24, "num_heads": 2, "num_hidden_layers": 1}'],
        lambda site, _: isinstance(site["multiplicity"], list)),
    "a general solver": (["--model", "s4", "--config", json.dumps(PAPER)],
                         lambda site, _: site["constant"] and {"conditioning", "phase_bins"} <= set(site)),
    "departures": (
        ["--model", "softmax-attention", "--config", json.dumps(PAPER | {"num_heads": 2}), "--definition", "paper-compat"],
        lambda _, output: output["departures"] == ["E1", "E2", "E3", "E4", "E6", "E9"]),
    "windows": (["--model", "lstm", "--window", "12"], lambda _, output: output["window"] == {"length": 12, "stride": 12}),
}


class AnalysisOutputTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        schema = json.loads((harness.options.source / "docs" / "analysis-output.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        cls.validator = jsonschema.Draft202012Validator(schema)

    def analyze(self, *flags):
        command = [harness.options.bin / "eigsvc", "analyze", "-o", "json", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        output = json.loads(done.stdout, parse_constant=lambda constant: self.fail(f"{constant} is no JSON"))
        self.validator.validate(output)
        return output

    def test_trained_beside_untrained(self):
        demo = str(harness.demo_checkpoint())
        output = self.analyze("--checkpoint", demo, "--task", "mqar", "--examples", "64", "--compare-twin", "1")
        self.assertEqual(output["checkpoint"]["sha256"], harness.sha256(harness.demo_checkpoint().read_bytes()))
        self.assertEqual([output["checkpoint"]["twin_seed"], output["twin"]["checkpoint"]["twin_seed"]], [None, 1])
        self.assertEqual([site["head"] for site in output["sites"]], 2 * list(range(6)))

    def test_perplexity(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as ids:
            ids.write(" ".join(str(7 * i % 64) for i in range(600)))
            ids.flush()
            output = self.analyze("--checkpoint", str(harness.demo_checkpoint()), "--task", "next-token", "--data", ids.name)
        self.assertEqual(output["score"]["metric"], "perplexity")

    def test_fresh_models(self):
        for what, (flags, has) in FRESH.items():
            with self.subTest(what):
                output = self.analyze(*flags, "--task", "mqar", "--param", "vocab_size=128", "--examples", "4")
                self.assertIsNone(output["checkpoint"]["sha256"])
                self.assertTrue(has(output["sites"][0], output), output["sites"][0])


if __name__ == "__main__":
    os.environ.pop("EIGSVC_SERVER", None)
    harness.main()
