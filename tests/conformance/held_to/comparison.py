"""What the comparisons of this folder share: the files of a case, differences, and stand-ins for what needs a GPU."""

import argparse
import ast
import importlib.machinery
import json
import math
import pathlib
import subprocess
import sys
import types
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

# hugging_face.py and plain.py, behind the project's own modules.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

EPS = np.finfo(np.float64).eps


class Case:
    """A case's directory, as README.md describes it."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.facts = json.loads((self.directory / "case.json").read_text())
        self.name, self.settings = self.facts["name"], self.facts.get("settings") or {}
        self.expected = load_file(self.directory / "expected.safetensors")
        path = self.directory / self.facts["checkpoint"]
        self.config = json.loads((path / "config.json").read_text()) if path.is_dir() else None
        self.file = path
        if path.is_dir():
            self.file = next(path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists())

    def weights(self):
        """The checkpoint's tensors in float64."""
        if self.file.suffix == ".safetensors":
            stored = {key: torch.from_numpy(value) for key, value in load_file(self.file).items()}
        else:
            stored = torch.load(self.file, weights_only=True)
        return {key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
                for key, value in stored.items()}

    def inputs(self):
        """Tokens, or real inputs in float64."""
        given = torch.from_numpy(self.expected["tokens"] if "tokens" in self.expected else self.expected["inputs"])
        return given.double() if given.is_floating_point() else given

    def sites(self):
        """The names of the layers' mixers, in order."""
        names = dict.fromkeys(key.rsplit(".", 2 if ".eigenvalues." in key else 1)[0] for key in self.expected
                              if key.startswith("layers.") and not key.endswith(".input"))
        return sorted(names, key=lambda name: int(name.split(".")[1]))


def of_softmax(scores):
    """What Case expects of softmax attention: log λ [B,T-1,H,1] of log-sum-exps of masked scores [B,H,T,T]."""
    lse = scores.double().logsumexp(-1).numpy()
    return (lse[..., :-1] - lse[..., 1:]).transpose(0, 2, 1)[..., None]


def array(x):
    if not torch.is_tensor(x):
        return np.asarray(x)
    return x.detach().numpy() if x.is_complex() else x.detach().double().numpy()


def of_logits(expected, logits):
    """The largest difference, of the largest logit."""
    logits = array(logits).reshape(expected.shape)
    return np.abs(logits - expected).max() / np.abs(expected).max()


def of_eigenvalues(case, site, found, exact):
    """The largest difference of log λ over max(1, |log λ|), or of a softmax's over the largest |LSE|; of explicit matrices, of
    λ. And how many times README.md's bound it is."""
    expected = case.expected
    worst = share = 0.0
    for part, value in found.items():
        value = array(value)
        if part == "matrices":
            theirs = expected[site + ".eigenvalues.re"] + 1j * expected[site + ".eigenvalues.im"]
            ours = np.linalg.eigvals(value)
            # Λ acts on the keys' side of a state with several columns; each of these has its eigenvalues.
            ours = np.repeat(ours, theirs.shape[-1] // ours.shape[-1], -1)
            theirs, ours = np.broadcast_arrays(theirs, ours)
            count = theirs.shape[-1]
            norm, condition = (np.broadcast_to(expected[f"{site}.{name}"], theirs.shape[:-1]).ravel()
                               for name in ("norm", "condition"))
            for a, b, size, kappa in zip(theirs.reshape(-1, count), ours.reshape(-1, count), norm, condition):
                distance = np.abs(a[:, None] - b)
                rows, columns = linear_sum_assignment(distance)
                off = distance[rows, columns]
                allowed = (1e-10 if exact else 1e-5) * np.abs(a) + 20 * min(kappa, 1e6) * (EPS if exact else 2.0**-23) * size
                worst, share = max(worst, off.max()), max(share, (off / allowed).max())
            continue
        theirs = expected[f"{site}.{part}"]
        theirs, value = np.broadcast_arrays(theirs, value)
        same = np.isneginf(theirs) & np.isneginf(value)  # λ = 0
        off = np.abs(np.where(same, 0, theirs) - np.where(same, 0, value))
        if part == "phase":
            off = np.minimum(off % (2 * math.pi), 2 * math.pi - off % (2 * math.pi))
        if site + ".subtracted" in expected:
            unit, allowed = max(1, expected[site + ".subtracted"][0]), 1e-9 if exact else 5e-6
        else:
            unit, allowed = np.maximum(1, np.abs(np.where(same, 0, theirs))), 1e-12 if exact else 1e-5
        worst, share = max(worst, (off / unit).max()), max(share, (off / unit).max() / allowed)
    return worst, share


class WithoutAsserts(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


def definitions(path, imports=True, **given):
    """What a script imports and defines, also under conditions on `given`, without running the rest of it and without asserts."""
    wanted = []
    for node in ast.parse(path.read_text()).body:
        conditional = isinstance(node, ast.If) and any(isinstance(part, ast.Name) and part.id in given
                                                       for part in ast.walk(node.test))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) or conditional or (
                imports and isinstance(node, (ast.Import, ast.ImportFrom))):
            wanted.append(WithoutAsserts().visit(node))
    namespace = {"__name__": path.stem, **given}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), namespace)
    return namespace


def fit(model, weights, may_miss=()):
    """Gives a model its weights, whatever the sizes of those it was made with; the missing ones become 0."""
    parameters = dict(model.named_parameters())
    assert set(weights) <= set(parameters), set(weights) - set(parameters)
    for name, parameter in parameters.items():
        assert name in weights or name.endswith(may_miss), name
        parameter.data = weights.get(name, torch.zeros_like(parameter))
    return model.eval()


class RecordedAttention:
    """While entered, keeps log λ of every attention that calls torch.softmax on scores [B,H,T,T], or sums q·k in the einsum that
    the authors of arXiv 2510.09379 write, or norms by an exponential (behind after_norm, a hook)."""

    def __init__(self):
        self.seen, self.patches = [], []

    def __enter__(self):
        softmax, einsum, exp = torch.softmax, torch.einsum, torch.exp

        def record_softmax(scores, *arguments, **options):
            if scores.ndim == 4:
                self.seen.append(of_softmax(scores))
            return softmax(scores, *arguments, **options)

        def record_einsum(equation, *operands):
            result = einsum(equation, *operands)
            if equation.replace(" ", "") == "bshd,bshd->bsh":  # linear attention's normaliser, before it is inverted
                self.seen.append((result[:, :-1].log() - result[:, 1:].log())[..., None])
            return result

        def record_exp(x):
            self.exponent = x
            return exp(x)

        self.patches = [mock.patch.object(torch, name, function) for name, function in
                        (("softmax", record_softmax), ("einsum", record_einsum), ("exp", record_exp))]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()

    def after_norm(self, *_):
        """The last exponential of norm attention is that of -f(a)."""
        self.seen.append((self.exponent[:, 1:] - self.exponent[:, :-1])[..., None])


# --- what needs a GPU ---


def stand_in(name, **members):
    """A module of that name, and those that it lies in where there are none."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        full = ".".join(parts[:i])
        if full not in sys.modules:
            sys.modules[full] = types.ModuleType(full)
            sys.modules[full].__path__, sys.modules[full].__spec__ = [], importlib.machinery.ModuleSpec(full, None)
        if i > 1:
            setattr(sys.modules[".".join(parts[:i - 1])], parts[i - 1], sys.modules[full])
    vars(sys.modules[name]).update(members)
    return sys.modules[name]


def replace(package, **functions):
    """Puts functions in the place of those of the same names in every module of a package that has them."""
    for name, module in list(sys.modules.items()):
        if module is not None and (name == package or name.startswith(package + ".")):
            for attribute, function in functions.items():
                if attribute in vars(module):
                    setattr(module, attribute, function)


class RotaryEmbedding(torch.nn.Module):
    """flash_attn's, of queries and keys from step 0."""

    def __init__(self, size, base=10000.0, scale_base=None, interleaved=False, device=None):
        super().__init__()
        assert scale_base is None
        self.size, self.base, self.interleaved = size, base, interleaved

    def turn(self, x):
        """The first dimensions of x [B,T,H,d]."""
        angles = torch.arange(x.shape[1])[:, None] * self.base ** -(torch.arange(0, self.size, 2) / self.size)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        turned, rest = x[..., :self.size], x[..., self.size:]
        a, b = (turned[..., ::2], turned[..., 1::2]) if self.interleaved else turned.chunk(2, -1)
        pair = a * cos - b * sin, b * cos + a * sin
        turned = torch.stack(pair, -1).flatten(-2) if self.interleaved else torch.cat(pair, -1)
        return torch.cat([turned, rest], -1)

    def forward(self, qkv, kv=None, seqlen_offset=0, max_seqlen=None):
        """[B,T,3,H,d], or [B,T,H,d] and [B,T,2,G,d]."""
        assert seqlen_offset == 0
        if kv is not None:
            return self.turn(qkv), torch.stack([self.turn(kv[:, :, 0]), kv[:, :, 1]], 2)
        q, k, v = qkv.unbind(2)
        return torch.stack([self.turn(q), self.turn(k), v], 2)


# --- a project's file as a program, which compare_twins.py starts ---


def main(load, run, precision="float64"):
    """load(checkout) -> what run(that, case) takes; run gives logits and {site: {"log_magnitude" | "phase" | "matrices": values}}
    of those sites whose transitions the project's code has as tensors of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("cases", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "-C", arguments.checkout, "rev-parse", "--short=7", "HEAD"], capture_output=True,
                            text=True).stdout.strip()
    project, results = load(arguments.checkout.resolve()), []
    for directory in arguments.cases:
        case = Case(directory)
        with torch.no_grad():
            logits, transitions = run(project, case)
        exact = precision == "float64" and "float64" in case.facts["dtypes"]
        eigenvalues = [of_eigenvalues(case, site, found, exact) for site, found in transitions.items()]
        results.append({"name": case.name, "reference": case.facts["reference"], "commit": commit or "no git",
                        "logits": float(of_logits(case.expected["logits"], logits)), "sites": len(case.sites()),
                        "exact": exact, "compared": len(transitions),
                        "eigenvalues": float(max((worst for worst, _ in eigenvalues), default=0)),
                        "share": float(max((share for _, share in eigenvalues), default=0))})
    arguments.results.write_text(json.dumps(results))
