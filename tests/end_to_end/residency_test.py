"""A checkpoint larger than the memory that models may take: its layers are read one at a time."""

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

import grpc
import numpy

import harness

LAYERS, WIDTH, INNER = 24, 512, 1024
MIB = 1 << 20


def write_checkpoint(path):
    """A Qwen3 of 24 layers of 10 MiB each, written a tensor at a time."""
    config = dict(model_type="qwen3", vocab_size=64, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
                  num_attention_heads=8, num_key_value_heads=8, head_dim=64)
    shapes = {"model.embed_tokens.weight": (64, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (64, WIDTH)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (WIDTH, WIDTH)
        shapes.update({block + "self_attn.q_norm.weight": (64,), block + "self_attn.k_norm.weight": (64,),
                       block + "mlp.gate_proj.weight": (INNER, WIDTH), block + "mlp.up_proj.weight": (INNER, WIDTH),
                       block + "mlp.down_proj.weight": (WIDTH, INNER), block + "input_layernorm.weight": (WIDTH,),
                       block + "post_attention_layernorm.weight": (WIDTH,)})
    header, begin = {"__metadata__": {"config": json.dumps(config)}}, 0
    for name, shape in shapes.items():
        end = begin + 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    generator = numpy.random.default_rng(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = 0.02 * generator.standard_normal(shape, dtype=numpy.float32)
            file.write((values + 1 if "norm" in name else values).tobytes())


class ResidencyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.checkpoint = pathlib.Path(cls.directory.name) / "wide.safetensors"
        write_checkpoint(cls.checkpoint)
        cls.bytes = cls.checkpoint.stat().st_size

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def headless(self, name, **spec):
        """The Analysis, and the most memory the worker had, bytes."""
        request = pathlib.Path(self.directory.name) / f"{name}.json"
        output = request.with_suffix(".out.json")
        spec = {"checkpoint": {"localPath": str(self.checkpoint)}, "examples": "6", "batchSize": "3",
                "task": {"name": "mqar", "parametersJson": json.dumps({"vocab_size": 64, "input_seq_len": 16, "num_kv_pairs": 2})}, **spec}
        request.write_text(json.dumps({"spec": spec}))
        process = subprocess.Popen([harness.options.bin / "eigsvc-worker", "analyze", "--threads=1", f"--request={request}",
                                    f"--output={output}"], stderr=subprocess.PIPE)
        errors = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        self.assertEqual(status, 0, errors)
        return json.loads(output.read_text()), usage.ru_maxrss * 1024

    def test_one_layer_at_a_time_takes_the_memory_of_two(self):
        self.assertGreater(self.bytes, 230 * MIB)
        whole, whole_peak = self.headless("all", residency="all")
        streamed, streamed_peak = self.headless("layer", residency="layer")
        self.assertEqual((whole["model"]["residency"], streamed["model"]["residency"]), ("all", "layer"))
        print(f"peak {whole_peak >> 20} MiB with all layers, {streamed_peak >> 20} MiB with one at a time, "
              f"{self.bytes >> 20} MiB of weights")
        # All but two of the 24 layers, less what the allocator keeps.
        self.assertLess(streamed_peak, whole_peak - self.bytes * 20 // LAYERS)
        for key in ("sites", "score", "eigenvalues", "tokens"):
            self.assertEqual(whole["result"][key], streamed["result"][key])

    def test_a_daemon_runs_what_its_budget_does_not_hold(self):
        from eigsvc.v1 import analysis_pb2, analysis_service_pb2, checkpoint_pb2, model_pb2
        with harness.daemon(f"--model-memory-bytes={40 * MIB}", f"--checkpoint-root={self.directory.name}",
                            roots=False) as daemon:
            daemon.wait_idle()

            def run(residency):
                task = model_pb2.TaskSpec(name="mqar", parameters_json=json.dumps({"vocab_size": 64, "input_seq_len": 16, "num_kv_pairs": 2}))
                spec = analysis_pb2.AnalysisSpec(checkpoint=checkpoint_pb2.CheckpointRef(name="wide.safetensors"), task=task,
                                                 examples=2, residency=residency)
                return [message.event for message in daemon.analysis.Analyze(
                    analysis_service_pb2.AnalyzeRequest(spec=spec), timeout=120)]

            events = run("auto")
            self.assertEqual([e.model.residency for e in events if e.HasField("model")], ["layer"])
            self.assertEqual(events[-1].result.eigenvalues, 2 * 15 * 8 * LAYERS)
            with self.assertRaises(grpc.RpcError) as error:
                run("all")
            self.assertEqual(error.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("--model-memory-bytes", error.exception.details())
            with self.assertRaises(grpc.RpcError) as error:
                run("some")
            self.assertEqual(error.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)


if __name__ == "__main__":
    harness.main()
