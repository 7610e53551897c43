"""Our analysis against the one released with arXiv 2510.09379, which forms the L x L scores of every head: attention models
in the authors' configurations of CIFAR on the same weights, batch and threads, interleaved in one run.

    released.py CHECKOUT --bin BIN_DIR      (CHECKOUT and Python as tests/conformance/released_analysis.py needs them)

Each round runs theirs as eval_eig does it for a trained model (forward pass, eigenvalues of every layer, shares of the
radius's bins), then ours by our own definition and by PAPER_COMPAT. Real inputs become tokens: speed does not depend on
them, nor on the weights.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "conformance"))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkout", type=pathlib.Path)
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=5)
arguments = parser.parse_args()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

import released_analysis  # noqa: E402
from forward_process import ForwardProcess  # noqa: E402

released = released_analysis.load_released(arguments.checkout.resolve())
torch.set_num_threads(arguments.threads)
torch.manual_seed(1)

THRESHOLDS = np.array([0.1, 0.5, 0.9, 1.0, 10, 100])
CASES = [(kind, batch, steps) for kind in ("sm-attention", "lin-attention", "norm-attention-conv")
         for batch, steps in ((8, 256), (2, 1024), (1, 2048))]


def analyse(model, config, tokens):
    x, found = model.encoder(tokens), []
    for layer in released.get_layers("transformer", model):
        x = layer(x)
        sizes = (x, layer, config["state_dim"], config["num_heads"], config["hidden_dim"])
        if config["attention_fn"] == "norm-attention":
            found.append(released.get_eig_att_norm(*sizes, config))
        elif config["attention_fn"] == "lin-attention":
            found.append(released.get_eig_att_linear(*sizes))
        else:
            found.append(released.get_eig_att_softmax(*sizes))
    values = np.concatenate(found, axis=-1)
    return released.threshold_analysis(values, THRESHOLDS, config["num_layers"], config["num_heads"], len(tokens))


def peak_mib(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) >> 10


def race(kind, batch, steps):
    config = yaml.safe_load((arguments.checkout / f"configs/iclr2026/cifar/cifar-{kind}.yaml").read_text())["model"]
    config |= {"embedding": True, "vocab_size": 256, "max_pos_embed": steps, "use_flash": False}
    model = released.Transformer(copy.deepcopy(config)).eval()
    tokens = torch.tensor([(i * 7919 + 13) % 256 for i in range(batch * steps)]).view(batch, steps)
    times = {"theirs": [], "analyze": [], "compat": []}
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
        torch.save(model.state_dict(), f"{directory}/model.pth")
        settings = {k: v for k, v in config.items() if k not in ("layer", "use_flash", "num_layers")}
        pathlib.Path(f"{directory}/settings.json").write_text(json.dumps(settings))
        ours = ForwardProcess(arguments.bin, f"{directory}/model.pth", batch, steps, arguments.threads, "cpu", "float32",
                              f"{directory}/settings.json")
        for round_number in range(arguments.rounds + 1):
            start = time.perf_counter()
            analyse(model, config, tokens)
            sample = {"theirs": time.perf_counter() - start, "analyze": ours.ask("analyze"), "compat": ours.ask("compat")}
            if round_number > 0:  # the first one warms up
                for name, value in sample.items():
                    times[name].append(value)
        peaks = [peak_mib("self"), peak_mib(ours.process.pid)]
        ours.close()
    median = {name: 1e3 * statistics.median(values) for name, values in times.items()}

    def ratio(name):
        ratios = sorted(a / b for a, b in zip(times["theirs"], times[name]))
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"

    print(f"| {kind} | {batch} × {steps} | {median['theirs']:.0f} | {median['analyze']:.0f} | {ratio('analyze')} | "
          f"{median['compat']:.0f} | {ratio('compat')} | {peaks[0]} | {peaks[1]} |", flush=True)


print(f"torch {torch.__version__}, {arguments.threads} threads, 6 layers of width 512, 4 heads, fp32, medians of "
      f"{arguments.rounds} interleaved rounds")
print("| model | batch × steps | released ms | ours ms | ratio (min..max) | PAPER_COMPAT ms | ratio (min..max) | peak MiB, released "
      "| peak MiB, ours |")
print("|---|---|---|---|---|---|---|---|---|")
for case in CASES:
    race(*case)
