"""Our CPU forward against transformers' on the same weights, lengths and threads, interleaved in one run.

Each round runs transformers, then ours, then ours with the analysis; medians of the rounds and of the ratios are
printed. Weights are random; speed does not depend on them.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--quick", action="store_true", help="small sizes, for the tests")
arguments = parser.parse_args()

import torch  # noqa: E402
import transformers  # noqa: E402

from forward_process import ForwardProcess  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(1)
transformers.logging.set_verbosity_error()
small = arguments.quick

WIDTH, LAYERS, VOCAB = (64, 2, 256) if small else (512, 8, 8192)
CASES = [("mamba2", 1, 128), ("llama", 1, 128)] if small else [
    ("mamba2", 4, 512), ("mamba2", 1, 2048), ("llama", 4, 512), ("llama", 1, 2048), ("gpt2", 4, 512)]


def build(family):
    if family == "mamba2":
        config = transformers.Mamba2Config(
            hidden_size=WIDTH, num_hidden_layers=LAYERS, vocab_size=VOCAB, state_size=64, head_dim=32 if small else 64,
            num_heads=2 * WIDTH // (32 if small else 64), n_groups=1, expand=2)
        return transformers.Mamba2ForCausalLM(config)
    if family == "llama":
        config = transformers.LlamaConfig(
            hidden_size=WIDTH, intermediate_size=WIDTH * 8 // 3, num_hidden_layers=LAYERS, num_attention_heads=8,
            num_key_value_heads=4, vocab_size=VOCAB, max_position_embeddings=4096)
        return transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    config = transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=8, vocab_size=VOCAB, n_positions=4096)
    return transformers.GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")


rows = []
for family, batch, steps in CASES:
    model = build(family).eval()
    tokens = torch.tensor([(i * 7919 + 13) % VOCAB for i in range(batch * steps)]).view(batch, steps)
    with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
        model.save_pretrained(directory)
        ours = ForwardProcess(arguments.bin, directory, batch, steps, arguments.threads)
        times = {"theirs": [], "ours": [], "analyze": []}
        for round_number in range(arguments.rounds + 1):
            start = time.perf_counter()
            model(tokens, use_cache=False)
            sample = {"theirs": time.perf_counter() - start, "ours": ours.ask("forward"), "analyze": ours.ask("analyze")}
            if round_number > 0:  # the first one warms up
                for key, value in sample.items():
                    times[key].append(value)
        ours.close()
    median = {key: statistics.median(value) for key, value in times.items()}
    ratios = sorted(a / b for a, b in zip(times["theirs"], times["ours"]))
    rows.append({"family": family, "batch": batch, "steps": steps, "theirs_ms": 1e3 * median["theirs"],
                 "ours_ms": 1e3 * median["ours"], "analyze_ms": 1e3 * median["analyze"],
                 "ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]})

print(f"transformers {transformers.__version__}, torch {torch.__version__}, {arguments.threads} threads, "
      f"width {WIDTH}, {LAYERS} layers, fp32, medians of {arguments.rounds} interleaved rounds")
print("| family | batch × steps | transformers ms | ours ms | ratio (min..max) | with analysis ms | analysis / plain |")
print("|---|---|---|---|---|---|---|")
for row in rows:
    print("| {family} | {batch} × {steps} | {theirs_ms:.1f} | {ours_ms:.1f} | {ratio:.2f} ({low:.2f}..{high:.2f}) | "
          "{analyze_ms:.1f} | {0:.3f} |".format(row["analyze_ms"] / row["ours_ms"], **row))
print(json.dumps(rows), file=open(os.environ["EIGSVC_BENCH_JSON"], "w")) if "EIGSVC_BENCH_JSON" in os.environ else None
