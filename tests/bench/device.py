"""Our forward pass and analysis on a GPU against transformers and PyTorch scripts on the same weights, interleaved in one run.

Each round runs theirs, then ours and ours with the analysis in either order; medians of the rounds and of the ratios are printed. Weights are
random; speed does not depend on them. "prefill" is embedding and layers without the head, on both sides.
"""

import argparse
import functools
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--cases", default="all", help="names of CASES, with commas")
parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
parser.add_argument("--mamba-ssm", help="folders with mamba_ssm and causal_conv1d ready to import, with colons: raced for Mamba-2 "
                    "in place of transformers")
parser.add_argument("--report", type=pathlib.Path)
arguments = parser.parse_args()

import torch  # noqa: E402
import transformers  # noqa: E402

from forward_process import ForwardProcess  # noqa: E402

transformers.logging.set_verbosity_error()
torch.manual_seed(1)
DEVICE = torch.device(arguments.device)

LLAMA = dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16,
             vocab_size=32000, max_position_embeddings=131072)
MAMBA2 = dict(hidden_size=768, num_hidden_layers=24, vocab_size=50288, state_size=128, head_dim=64, num_heads=24, n_groups=1,
              expand=2)
MAMBA1 = dict(hidden_size=768, num_hidden_layers=24, vocab_size=50280, state_size=16)
# family, settings, dtype, batch, steps, passes a sample of ours and of theirs; 0: they cannot.
CASES = {
    "llama-bf16-8k": ("llama", LLAMA, "bfloat16", 1, 8192, 24, 8),
    "llama-bf16-64k": ("llama", LLAMA, "bfloat16", 1, 65536, 1, 1),
    # Scores so large that the log-sum-exps of all heads are computed again (models/kernels/accurate_lse).
    "llama-large-bf16-8k": ("llama", LLAMA | {"initializer_range": 0.06}, "bfloat16", 1, 8192, 12, 4),
    "llama-fp32-8k": ("llama", LLAMA, "float32", 1, 8192, 2, 2),
    "mamba2-fp32-8k": ("mamba2", MAMBA2, "float32", 1, 8192, 8, 1),
    "mamba2-fp32-64k": ("mamba2", MAMBA2, "float32", 1, 65536, 1, 0),
    "mamba2-bf16-8k": ("mamba2", MAMBA2, "bfloat16", 1, 8192, 16, 1),
    "mamba2-bf16-64k": ("mamba2", MAMBA2, "bfloat16", 1, 65536, 2, 0),
    "mamba-bf16-8k": ("mamba", MAMBA1, "bfloat16", 1, 8192, 8, 0),
}


def build(family, settings, directory):
    with torch.device(DEVICE):
        if family == "llama":
            model = transformers.LlamaForCausalLM._from_config(transformers.LlamaConfig(**settings), attn_implementation="sdpa")
        elif family == "mamba":
            model = transformers.MambaForCausalLM(transformers.MambaConfig(**settings))
        else:
            model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**settings))
    model = model.eval().to(torch.float32)
    model.save_pretrained(directory)
    return model


def mamba_ssm_body(whole, settings, dtype):
    """Embedding and layers of state-spaces/mamba, which its fused Triton kernels run; held to transformers' on the same weights."""
    sys.path[:0] = arguments.mamba_ssm.split(":")
    from mamba_ssm.models.mixer_seq_simple import MixerModel
    inner = {"layer": "Mamba2", "d_state": settings["state_size"], "headdim": settings["head_dim"], "expand": settings["expand"],
             "ngroups": settings["n_groups"]}
    body = MixerModel(settings["hidden_size"], settings["num_hidden_layers"], 0, settings["vocab_size"], inner, rms_norm=True,
                      fused_add_norm=True, residual_in_fp32=True, device=DEVICE, dtype=torch.float32).eval()
    body.load_state_dict({key.replace("embeddings", "embedding"): value for key, value in whole.base_model.state_dict().items()})
    few = torch.arange(512, device=DEVICE).view(1, -1)
    expected, found = whole.base_model(few, use_cache=False).last_hidden_state, body(few)
    off = (found.float() - expected.float()).norm() / expected.float().norm()
    if not off < 0.1:
        raise RuntimeError(f"mamba_ssm does not run this model: off by {off:.3g}")
    return body.to(dtype)


def theirs(forward, tokens, passes):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(passes):
        forward(tokens)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / passes


def row(name):
    family, settings, dtype, batch, steps, passes, public = CASES[name]
    tokens = torch.tensor([(i * 7919 + 13) % settings["vocab_size"] for i in range(batch * steps)]).view(batch, steps).to(DEVICE)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory, torch.inference_mode():
        whole = build(family, settings, directory)
        parameters = sum(p.numel() for p in whole.parameters())
        if family == "mamba2" and arguments.mamba_ssm:
            forward, public = mamba_ssm_body(whole, settings, getattr(torch, dtype)), passes
        else:
            forward = functools.partial(whole.base_model.to(getattr(torch, dtype)), use_cache=False)
        ours = ForwardProcess(arguments.bin, directory, batch, steps, os.cpu_count(), arguments.device, dtype)
        times = {"theirs": [], "prefill": [], "analyze": [], "tap": []}
        for number in range(arguments.rounds + 2):
            sample = {}
            if public:
                try:
                    sample["theirs"] = theirs(forward, tokens, public)
                except torch.OutOfMemoryError:
                    public = 0
                    times["theirs"].clear()
                torch.cuda.empty_cache()
            # In turns: what comes second finds the device hotter.
            for what in ("prefill", "analyze") if number % 2 else ("analyze", "prefill"):
                sample[what] = ours.ask(f"{what} {passes}")
            sample["tap"] = ours.ask("tap")
            if number >= 2:  # the first ones warm up
                for key, value in sample.items():
                    times[key].append(value)
        ours.ask("memory")
        ours.ask("prefill 1")
        plain = ours.ask("memory")
        ours.ask("analyze 1")
        analysed = ours.ask("memory")
        ours.close()
        del whole, forward
        gc.collect()
        torch.cuda.empty_cache()
    result = {"name": name, "parameters": parameters, "dtype": dtype, "batch": batch, "steps": steps}
    for key, values in times.items():
        result[key] = 1e3 * statistics.median(values) if values else None
    for label, top, bottom in [("speed", "theirs", "prefill"), ("overhead", "analyze", "prefill")]:
        ratios = sorted(a / b for a, b in zip(times[top], times[bottom]))
        result[label] = [statistics.median(ratios), ratios[0], ratios[-1]] if ratios else None
    result["memory"] = [plain, analysed]
    return result


def spread(ratios, digits):
    return "–" if ratios is None else "{:.{d}f} ({:.{d}f}..{:.{d}f})".format(*ratios, d=digits)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def load_row():
    """A checkpoint that is not in the page cache, against a direct read of its file; and the time to a first result, of weights that are
    loaded before the model runs and of layers that are loaded as it runs, with and without the cache."""
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory:
        build("llama", dict(LLAMA, num_hidden_layers=48, hidden_size=1536, intermediate_size=4096), directory)
        torch.cuda.empty_cache()
        files = sorted(pathlib.Path(directory).glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        ours = ForwardProcess(arguments.bin, directory, 1, 8192, os.cpu_count(), arguments.device, "float32")
        ours.ask("analyze")
        times = {"cold": [], "warm": [], "direct": []}
        firsts = {(what, cache): [] for what in ("first", "first-as-it-runs") for cache in ("cold", "warm")}
        for _ in range(3):
            drop_caches()
            start = time.perf_counter()
            for path in files:
                subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=16M", "iflag=direct"], check=True, capture_output=True)
            times["direct"].append(size / (time.perf_counter() - start))
            drop_caches()
            times["cold"].append(size / ours.ask("load"))
            times["warm"].append(size / ours.ask("load"))
            for (what, cache), seconds in firsts.items():
                if cache == "cold":
                    drop_caches()
                seconds.append(ours.ask(what))
        ours.close()
    return {key: statistics.median(values) / 1e9 for key, values in times.items()}, firsts, size


names = list(CASES) if arguments.cases == "all" else [name for name in arguments.cases.split(",") if name in CASES]
print(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}, transformers {transformers.__version__}"
      f"{', mamba_ssm for Mamba-2' if arguments.mamba_ssm else ''}, medians of "
      f"{arguments.rounds} interleaved rounds (min..max)", flush=True)
rows = []
if names:
    print("| model | batch × steps | theirs ms | ours ms | theirs / ours | with analysis ms | analysis / plain | host's "
          "part of it, ms an analysis | peak MB, plain and analysed |\n|---|---|---|---|---|---|---|---|---|", flush=True)
for name in names:
    result = row(name)
    rows.append(result)
    print("| {0} {1:.0f} M {2} | {3} × {4} | {5} | {6:.2f} | {7} | {8:.2f} | {9} | {10:.1f} | {11:.0f}, {12:.0f} |".format(
        name.split("-")[0], result["parameters"] / 1e6, result["dtype"], result["batch"], result["steps"],
        "–" if result["theirs"] is None else f"{result['theirs']:.2f}", result["prefill"], spread(result["speed"], 2),
        result["analyze"], spread(result["overhead"], 3), result["tap"], *(value / 1e6 for value in result["memory"])), flush=True)
if arguments.cases == "all" or "load" in arguments.cases.split(","):
    rates, firsts, size = load_row()
    rows.append({"name": "load", "bytes": size, **rates, **{" ".join(key): values for key, values in firsts.items()}})
    print("\nloading {:.2f} GB: direct read {:.2f} GB/s, cold load {:.2f} GB/s ({:.2f} of it), warm load {:.2f} GB/s".format(
        size / 1e9, rates["direct"], rates["cold"], rates["cold"] / rates["direct"], rates["warm"]))
    for cache in ("cold", "warm"):
        before, during = firsts["first", cache], firsts["first-as-it-runs", cache]
        print("first result of 8192 steps, {}: {:.2f} s loaded before, {:.2f} s as it runs; of it {}".format(
            cache, statistics.median(before), statistics.median(during),
            spread([f(b / a for a, b in zip(before, during)) for f in (statistics.median, min, max)], 2)))
if arguments.report:
    arguments.report.write_text(json.dumps(rows))
