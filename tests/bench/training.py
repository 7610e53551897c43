"""Training of the paper's models on associative recall: `eigsvc train` against the same models in plain PyTorch, without
torch.compile, in turn in one run.

Prints a Markdown table of tokens a second, medians of the rounds, and ratios above 1 where ours is faster. Both sides: float32
without TF32, AdamW, gradients clipped, one batch size, the head where a step has an answer. Dropout is off on both. PyTorch's side
gets its batches ready on the device; ours makes them on the host while it trains.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=150, help="of a round, after the warm-up")
parser.add_argument("--warm", type=int, default=20)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--length", type=int, default=512)
parser.add_argument("--pairs", type=int, default=64)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--vocabulary", type=int, default=8192)
parser.add_argument("--models", default="mamba2,softmax-attention,lru")
arguments = parser.parse_args()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
torch.manual_seed(1)
DEVICE = torch.device(arguments.device)
WIDTH, VOCABULARY, LENGTH, STATE = arguments.width, arguments.vocabulary, arguments.length, arguments.width
CHUNK = 64
RATE, DECAY = 1e-3, 0.1


class SoftmaxBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unsqueeze(1).chunk(3, -1)
        return self.norm(x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)))


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(SoftmaxBlock(), SoftmaxBlock(), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def hidden(self, tokens):
        return self.blocks(self.words(tokens) + self.places.weight)


def decays(log_decay):
    """[..., T] log decays of steps -> [..., T, T] of the product from a step's state to a later one's, 0 above."""
    sums = log_decay.cumsum(-1)
    between = sums[..., :, None] - sums[..., None, :]
    return between.masked_fill(torch.ones_like(between, dtype=torch.bool).triu(1), -math.inf).exp()


def ssd(x, log_decay, b, c):
    """Mamba-2's state-space duality over chunks. x [B,T,P], log_decay [B,T], b and c [B,T,N]; one head."""
    x, log_decay, b, c = (part.unflatten(1, (-1, min(CHUNK, part.shape[1]))) for part in (x, log_decay, b, c))
    inside = (c @ b.transpose(-1, -2) * decays(log_decay)) @ x
    sums = log_decay.cumsum(-1)
    ends = (b * (sums[..., -1:] - sums).exp()[..., None]).transpose(-1, -2) @ x  # [B,C,N,P]: of each chunk alone
    total = F.pad(sums[..., -1], (1, 0))[:, :-1]
    carried = decays(total)  # [B,C,C], of starts; a chunk's own end is not in its start
    starts = torch.einsum("bij,bjnp->binp", carried[:, :, 1:], ends[:, :-1])
    return (inside + (c * sums.exp()[..., None]) @ starts).flatten(1, 2)


class Mamba2Block(nn.Module):
    def __init__(self):
        super().__init__()
        rows = WIDTH + 2 * STATE
        self.norm, self.inputs, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, rows + 1, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.conv = nn.Conv1d(rows, rows, 4, groups=rows, padding=3)
        self.rate, self.skip = nn.Parameter(torch.rand(1) * 2.7), nn.Parameter(torch.ones(1))
        self.step = nn.Parameter(torch.full((1,), -4.6))
        self.glu = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x):
        mixed, step = self.inputs(self.norm(x)).split([WIDTH + 2 * STATE, 1], -1)
        mixed = F.silu(self.conv(mixed.transpose(1, 2))[..., :LENGTH].transpose(1, 2))
        u, b, c = mixed.split([WIDTH, STATE, STATE], -1)
        step = F.softplus(step + self.step)
        y = ssd(u * step, -(step * self.rate.exp()).squeeze(-1), b, c) + u * self.skip
        return x + F.glu(self.glu(F.gelu(self.out(y))), -1)


class Mamba2(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.blocks = nn.Embedding(VOCABULARY, WIDTH), nn.Sequential(Mamba2Block(), Mamba2Block())
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def hidden(self, tokens):
        return self.blocks(self.words(tokens))


class LruBlock(nn.Module):
    def __init__(self):
        super().__init__()
        radius = torch.rand(STATE) * 0.09 + 0.9
        self.nu, self.theta = nn.Parameter((-radius.log()).log()), nn.Parameter((torch.rand(STATE) * 6.28).log())
        self.gamma = nn.Parameter((1 - radius**2).sqrt().log())
        self.b = nn.Parameter(torch.randn(2, STATE, WIDTH) / math.sqrt(2 * WIDTH))
        self.c = nn.Parameter(torch.randn(2, WIDTH, STATE) / math.sqrt(STATE))
        self.skip = nn.Parameter(torch.randn(WIDTH))
        self.first, self.second, self.norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)

    def forward(self, x):
        b = torch.complex(self.b[0], self.b[1]) * self.gamma.exp()[:, None]
        u = (x.to(b.dtype) @ b.T).transpose(1, 2)  # [B,N,T]
        steps = torch.arange(LENGTH, device=x.device)
        kernel = torch.exp(torch.complex(-self.nu.exp(), self.theta.exp())[:, None] * steps)  # [N,T]: λ^t
        states = torch.fft.ifft(torch.fft.fft(u, 2 * LENGTH) * torch.fft.fft(kernel, 2 * LENGTH))[..., :LENGTH]
        y = (states.transpose(1, 2) @ torch.complex(self.c[0], self.c[1]).T).real + self.skip * x
        z = F.gelu(y, approximate="tanh")
        return self.norm((x + self.first(z) * torch.sigmoid(self.second(z))).transpose(1, 2)).transpose(1, 2)


class Lru(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.bias = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.zeros(WIDTH))
        nn.init.normal_(self.words.weight, std=VOCABULARY**-0.5)  # a dense layer over one-hot tokens
        self.blocks = nn.Sequential(LruBlock(), LruBlock())
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def hidden(self, tokens):
        return self.blocks(self.words(tokens) + self.bias)


TWINS = {"mamba2": Mamba2, "softmax-attention": Softmax, "lru": Lru}
COMMON = {"layout": "paper", "num_layers": 2, "hidden_dim": WIDTH, "state_dim": STATE, "vocab_size": VOCABULARY,
          "output_dim": VOCABULARY, "dropout": 0}
CONFIGS = {
    "mamba2": COMMON | {"num_heads": 1, "prenorm": True, "conv_dim": 4, "expansion": 1, "glu": True},
    "softmax-attention": COMMON | {"num_heads": 1, "mixer": "none", "max_pos_embed": LENGTH},
    "lru": COMMON | {"prenorm": False, "activation": "full_glu", "norm": "batch", "r_min": 0.9, "r_max": 0.99},
}


def recall_batch():
    """Tokens, and the places and values of the answers: pairs first, then their keys once more among fillers."""
    keys = 1 + torch.rand(arguments.batch, VOCABULARY // 2 - 1, device=DEVICE).argsort(-1)[:, :arguments.pairs]
    values = VOCABULARY // 2 + torch.rand(arguments.batch, VOCABULARY // 2, device=DEVICE).argsort(-1)[:, :arguments.pairs]
    tokens = torch.randint(VOCABULARY, (arguments.batch, LENGTH), device=DEVICE)
    tokens[:, 0:2 * arguments.pairs:2], tokens[:, 1:2 * arguments.pairs:2] = keys, values
    places = 2 * arguments.pairs + torch.rand(arguments.batch, LENGTH - 2 * arguments.pairs,
                                              device=DEVICE).argsort(-1)[:, :arguments.pairs]
    tokens.scatter_(1, places, keys)
    return tokens, (torch.arange(arguments.batch, device=DEVICE)[:, None], places), values


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class Theirs:
    def __init__(self, name):
        self.model = TWINS[name]().to(DEVICE)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        self.losses = []

    def train(self, steps):
        """Seconds."""
        batches = [recall_batch() for _ in range(min(steps, 32))]
        wait()
        start = time.perf_counter()
        for step in range(steps):
            tokens, places, values = batches[step % len(batches)]
            logits = self.model.head(self.model.hidden(tokens)[places])
            loss = F.cross_entropy(logits.flatten(0, 1), values.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1)
            self.optimizer.step()
            self.losses.append(loss.item())  # ours looks at each loss, too
        wait()
        return time.perf_counter() - start


class Ours:
    """A daemon with one worker; a training of its own each round."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="eigsvc-bench-")
        self.server = f"unix:{self.directory.name}/socket"
        self.log = open(pathlib.Path(self.directory.name) / "log", "w")
        self.daemon = subprocess.Popen(
            [arguments.bin / "eigsvcd", "--listen", self.server, "--http-listen", "", "--state-dir",
             self.directory.name + "/state", "--devices", arguments.device], stdout=self.log, stderr=self.log)
        for _ in range(600):
            if pathlib.Path(self.directory.name, "socket").exists():
                return
            time.sleep(0.1)
        raise RuntimeError("eigsvcd did not come up")

    def train(self, name, steps):
        """Tokens a second of the reports after the warm-up, the loss of the first one, and the model's parameters."""
        command = [arguments.bin / "eigsvc", "--server", self.server, "train", "--model", name, "--config",
                   json.dumps(CONFIGS[name]), "--task", "mqar", "--param", f"vocab_size={VOCABULARY}", "--param",
                   f"input_seq_len={LENGTH}", "--param", f"num_kv_pairs={arguments.pairs}", "--steps", str(steps),
                   "--batch-size", str(arguments.batch), "--learning-rate", str(RATE), "--final-learning-rate", str(RATE),
                   "--weight-decay", str(DECAY), "--eval-every", str(steps), "--eval-examples", "64", "--out",
                   self.directory.name + "/out.safetensors", "-o", "ndjson", "--progress", "none"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.returncode}: {done.stderr}")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        parameters = next(event["model"]["parameters"] for event in events if event["event"] == "model")
        reports = [event for event in events if event["event"] == "progress" and event.get("step")]
        # The last one's time holds the evaluation.
        rates = [event["tokens_per_second"] for event in reports if event["score"] is None and event["step"] > arguments.warm]
        return rates, reports[0]["loss"], parameters

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        self.directory.cleanup()


def race(name, ours):
    theirs = Theirs(name)
    _, first, parameters = ours.train(name, 1)
    if parameters != theirs.parameters:
        raise RuntimeError(f"{name}: our model has {parameters} parameters, PyTorch's {theirs.parameters}")
    theirs.train(arguments.warm)
    tokens = arguments.batch * LENGTH
    rounds = []
    for _ in range(arguments.rounds):
        rates, _, _ = ours.train(name, arguments.warm + arguments.steps)
        if not rates:
            raise RuntimeError(f"{name}: no report between step {arguments.warm} and the end; give more --steps")
        rounds.append((statistics.median(rates), tokens * arguments.steps / theirs.train(arguments.steps)))
    ratios = [mine / other for mine, other in rounds]
    print(f"| {name} | {statistics.median(r[0] for r in rounds):.4g} | {statistics.median(r[1] for r in rounds):.4g} | "
          f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) | {first:.3f} | {theirs.losses[0]:.3f} |",
          flush=True)


def main():
    print(f"{torch.cuda.get_device_name(DEVICE) if DEVICE.type == 'cuda' else f'{os.cpu_count()} cores'}, torch {torch.__version__}, "
          f"batch {arguments.batch} x {LENGTH}, {arguments.pairs} pairs, width {WIDTH}, {arguments.rounds} rounds of {arguments.steps} steps\n")
    print("| model | ours, tokens/s | PyTorch, tokens/s | ratio (min..max) | our loss at step 1 | theirs |\n|---|---|---|---|---|---|", flush=True)
    ours = Ours()
    try:
        for name in arguments.models.split(","):
            race(name, ours)
    finally:
        ours.close()


if __name__ == "__main__":
    main()
