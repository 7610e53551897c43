"""Our analysis against the scripts one would write in Python for the same numbers, on the same weights and token ids, interleaved.

"plain" is transformers with hooks: log-sum-exp over the L x L scores of each head (softmax) or Δ·A (Mamba-2), fetched, and numpy's
histogram. "fused" keeps to the device: the attention operator's own log-sum-exp, a difference and torch.histc a head; Mamba-2's by
hooks and histc. Ours is an analysis with nothing to score. Embedding and layers on all sides, without the head; batch 1. "–": it does not
fit into memory. Ratios above 1: ours is faster.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--steps", default="1024,8192")
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--quick", action="store_true", help="small models, for the tests")
parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
arguments = parser.parse_args()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from forward_process import ForwardProcess  # noqa: E402

transformers.logging.set_verbosity_error()
torch.manual_seed(1)
DEVICE, DTYPE = torch.device(arguments.device), getattr(torch, arguments.dtype)
BINS, LOW, HIGH = 256, -8.0, 8.0  # of log λ
WIDTH, LAYERS, HEADS = (64, 2, 2) if arguments.quick else (1024, 24, 16)


def on_device(model):
    with torch.device(DEVICE):
        return model().eval()


def llama(attention):
    config = transformers.LlamaConfig(hidden_size=WIDTH, intermediate_size=WIDTH * 11 // 4, num_hidden_layers=LAYERS,
                                      num_attention_heads=HEADS, num_key_value_heads=HEADS, vocab_size=32000,
                                      max_position_embeddings=131072)
    return on_device(lambda: transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention))


def mamba2():
    width = WIDTH * 3 // 4 if not arguments.quick else WIDTH
    config = transformers.Mamba2Config(hidden_size=width, num_hidden_layers=LAYERS, vocab_size=32000, state_size=128, head_dim=64,
                                       num_heads=2 * width // 64, n_groups=1, expand=2)
    return on_device(lambda: transformers.Mamba2ForCausalLM(config))


class PlainLlama:
    """Recomputes each head's scores in a hook, as eager attention's own are gone by then."""

    def __init__(self, model):
        self.found = []
        for layer in model.layers:
            layer.self_attn.register_forward_hook(self.hook, with_kwargs=True)

    def hook(self, attention, positional, named, _):
        x = named["hidden_states"] if "hidden_states" in named else positional[0]
        shape = (*x.shape[:-1], -1, attention.head_dim)
        q, k = (p(x).view(shape).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
        q, k = apply_rotary_pos_emb(q, k, *named["position_embeddings"])
        scores = (q @ repeat_kv(k, attention.num_key_value_groups).transpose(2, 3)).float() * attention.scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        self.found.append(torch.logsumexp(scores.masked_fill(future, -torch.inf), -1).cpu().numpy())

    def histograms(self):
        found, self.found = self.found, []
        return [np.histogram(lse[0, head, :-1] - lse[0, head, 1:], BINS, (LOW, HIGH))[0] for lse in found for head in range(lse.shape[1])]


class PlainMamba2:
    def __init__(self, model):
        self.found = []
        for layer in model.layers:
            layer.mixer.in_proj.register_forward_hook(lambda _, __, out, mixer=layer.mixer: self.found.append(log_decay(mixer, out).cpu().numpy()))

    def histograms(self):
        found, self.found = self.found, []
        return [np.histogram(values[0, :, head], BINS, (LOW, HIGH))[0] for values in found for head in range(values.shape[2])]


def log_decay(mixer, projected):
    step = torch.nn.functional.softplus(projected[..., -mixer.num_heads:].float() + mixer.dt_bias.float())
    return -mixer.A_log.float().exp() * step


class FusedHistograms:
    def __init__(self):
        self.counts = []

    def count(self, log_lambda):  # [heads, steps]
        self.counts += [torch.histc(head, BINS, LOW, HIGH) for head in log_lambda]

    def histograms(self):
        counts, self.counts = self.counts, []
        return torch.stack(counts).cpu().numpy()


FUSED = FusedHistograms()


def attend(module, query, key, value, attention_mask, scaling, **_):
    key, value = (repeat_kv(x, module.num_key_value_groups) for x in (key, value))
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scaling)[:2]
    elif query.dtype == torch.float32:
        output, lse = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, True, scale=scaling)[:2]
        lse = lse[..., :query.shape[2]]
    else:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scaling)[:2]
    FUSED.count(lse[0, :, :-1] - lse[0, :, 1:])
    return output.transpose(1, 2), None


class FusedMamba2(FusedHistograms):
    def __init__(self, model):
        super().__init__()
        for layer in model.layers:
            layer.mixer.in_proj.register_forward_hook(lambda _, __, out, mixer=layer.mixer: self.count(log_decay(mixer, out)[0].T.contiguous()))


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(model, script, tokens):
    try:
        wait()
        start = time.perf_counter()
        model(tokens, use_cache=False)
        histograms = script.histograms()
        wait()
        seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    if sum(map(int, map(np.sum, histograms))) == 0:
        raise RuntimeError("the script counted nothing")
    return seconds


def race(family, steps):
    tokens = torch.tensor([(i * 7919 + 13) % 32000 for i in range(steps)]).view(1, steps).to(DEVICE)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as directory, torch.inference_mode():
        plain = llama("eager") if family == "llama" else mamba2()
        plain.save_pretrained(directory)
        parameters = sum(p.numel() for p in plain.parameters())
        fused = llama("lse") if family == "llama" else mamba2()
        fused.load_state_dict(plain.state_dict())
        plain, fused = plain.base_model.to(DTYPE), fused.base_model.to(DTYPE)
        scripts = (PlainLlama(plain), FUSED) if family == "llama" else (PlainMamba2(plain), FusedMamba2(fused))
        ours = ForwardProcess(arguments.bin, directory, 1, steps, os.cpu_count(), arguments.device, arguments.dtype)
        times = {"plain": [], "fused": [], "ours": []}
        for number in range(arguments.rounds + 1):
            sample = {"plain": timed(plain, scripts[0], tokens), "fused": timed(fused, scripts[1], tokens), "ours": ours.ask("analyze")}
            if number > 0:  # the first one warms up
                for name, value in sample.items():
                    times[name].append(value)
        ours.close()

    def ratio(name):
        if None in times[name]:
            return "–"
        ratios = sorted(a / b for a, b in zip(times[name], times["ours"]))
        return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}..{ratios[-1]:.1f})"

    milliseconds = ["–" if None in times[name] else f"{1e3 * statistics.median(times[name]):.1f}" for name in ("plain", "fused", "ours")]
    print(f"| {family} {parameters / 1e6:.0f} M | {steps} | {' | '.join(milliseconds)} | {ratio('plain')} | {ratio('fused')} |", flush=True)


transformers.AttentionInterface.register("lse", attend)
name = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else f"{os.cpu_count()} cores"
print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {arguments.dtype}, medians of {arguments.rounds} "
      "interleaved rounds (min..max)")
print("| model | steps | plain ms | fused ms | ours ms | plain / ours | fused / ours |\n|---|---|---|---|---|---|---|", flush=True)
for model_family in ("llama", "mamba2"):
    for length in map(int, arguments.steps.split(",")):
        race(model_family, length)
