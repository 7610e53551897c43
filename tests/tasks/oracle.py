"""Independent answers for the tests of models/tasks.

oracle.py score IN.json OUT.json   scores by their plain definitions; IN: a list of {"predictions": [[example,
                                   predicted, target, nll], ...], "batch": examples a batch, "tokens_per_word": ...}
oracle.py cifar FILE.bin OUT.json  SHA-256 of what a file of CIFAR-10's binary version holds
oracle.py tokenize SPEC.json OUT.json   ids by Hugging Face's tokenizers, or by llama2.c's rule; SPEC:
                                   {"tokenizer": {"json" | "vocab", "merges" | "llama2c": path}, "texts": [...]}
"""
import hashlib
import json
import math
import sys

IGNORED = -100


def cifar(path):
    import numpy as np

    records = np.fromfile(path, np.uint8).reshape(-1, 1 + 3072)
    rgb = records[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
    # ITU-R 601-2 luma as Pillow computes it.
    grey = (rgb.astype(np.int64) @ np.array([19595, 38470, 7471]) + 0x8000) >> 16
    f32 = np.float32

    def levels(pixels, mean, std):
        return ((pixels.astype(f32) / f32(255) - f32(mean)) / f32(std)).astype(f32)

    colour = levels(rgb, [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261])
    digest = lambda array: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"images": len(records), "labels": digest(records[:, 0].astype(np.int64)), "grey": digest(grey),
            "scalar": digest(levels(grey, 122.6 / 255, 61 / 255)), "colour": digest(colour)}


def score(case):
    from scipy.stats import binomtest

    by_example = {}
    for example, predicted, target, nll in case["predictions"]:
        if target != IGNORED:
            by_example.setdefault(example, []).append((predicted == target, nll))
    answers = [answer for key in sorted(by_example) for answer in by_example[key]]
    hits = sum(hit for hit, _ in answers)
    nll = math.fsum(value for _, value in answers)
    result = {"n": len(answers), "hits": hits}
    if not answers:
        return result
    interval = binomtest(hits, len(answers)).proportion_ci(0.95, method="wilson")
    mean = nll / len(answers)
    batches = {}
    for example, predicted, target, value in case["predictions"]:
        if target != IGNORED:
            batches.setdefault(example // case["batch"], []).append(value)
    per_batch = [math.exp(math.fsum(values) / len(values)) for values in batches.values()]
    shares = [sum(hit for hit, _ in rows) / len(rows) for rows in by_example.values()]
    result.update(
        accuracy=hits / len(answers), wilson=[interval.low, interval.high], examples=len(by_example),
        mean_example_accuracy=math.fsum(shares) / len(shares), nll=mean, perplexity=math.exp(mean),
        word_perplexity=math.exp(nll / (len(answers) / case["tokens_per_word"])),
        batch_perplexity=math.fsum(per_batch) / len(per_batch))
    return result


def llama2c(path, texts):
    """llama2.c's bpe_encode as its comments describe it: the best-scoring union of neighbours, again and again."""
    import struct

    with open(path, "rb") as file:
        data = file.read()
    at, pieces = 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8:at + 8 + length].decode("utf-8"), score))
        at += 8 + length
    ids = {piece: index for index, (piece, _) in reversed(list(enumerate(pieces)))}

    def encode(text):
        symbols = []
        for character in " " + text if text else "":
            symbols += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
        while True:
            best = None
            for i in range(len(symbols) - 1):
                union = ids.get(pieces[symbols[i]][0] + pieces[symbols[i + 1]][0])
                if union is not None and (best is None or pieces[union][1] > best[0]):
                    best = (pieces[union][1], i, union)
            if best is None:
                return symbols
            symbols[best[1]:best[1] + 2] = [best[2]]

    return [encode(text) for text in texts]


def tokenize(spec):
    if "llama2c" in spec["tokenizer"]:
        return llama2c(spec["tokenizer"]["llama2c"], spec["texts"])
    import tokenizers
    from tokenizers import Tokenizer, models

    made = spec["tokenizer"]
    if "json" in made:
        tokenizer = Tokenizer.from_file(made["json"])
    elif "vocab" in made:
        tokenizer = Tokenizer(models.BPE.from_file(made["vocab"], made["merges"]))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in spec["texts"]]


if __name__ == "__main__":
    command, source, target = sys.argv[1:]
    if command == "cifar":
        result = cifar(source)
    else:
        with open(source, encoding="utf-8") as file:
            cases = json.load(file)
        result = tokenize(cases) if command == "tokenize" else [score(case) for case in cases]
    with open(target, "w") as file:
        json.dump(result, file)
