"""Mamba-2: Hugging Face's layout against transformers; those of state-spaces/mamba and flash-linear-attention, transformers'
older gated norm and the block of arXiv 2510.09379 against a float64 NumPy twin, written one step at a time from the references' sources.

held_to/ compares it, in float64, with state-spaces/mamba e9594ce, the whole model with its ssd_selective_scan, rms_norm_ref and MHA;
with flash-linear-attention bc3b101 without kernels, B and C of several groups in the kernels' order; and with
IntelligentControlSystems/Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254 with a plain loop in place of the
scan's kernel: logits with seeds 1 to 5 differ by 3.8e-15 (with attention or MLPs of its
layers 6e-15), 3.2e-15 and 1.5e-15 of the largest at most."""

import functools
import json
import math

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers.models.mamba2 import modeling_mamba2

import case
import hugging_face
import plain

NAME = "float64 NumPy twin, step by step (oracles/mamba2.py)"
TWIN = case.held_to(NAME, "state-spaces/mamba e9594ce", "4e-15")
HYBRID_TWIN = case.held_to(NAME, "state-spaces/mamba e9594ce", "1e-14")
FLA_TWIN = case.held_to(NAME, "flash-linear-attention bc3b101", "4e-15")
PAPER_TWIN = case.held_to(NAME, "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models 67d8254", "2e-15")

# --- transformers ---
# Releases before 5 clamp Δ from below by time_step_min in the path without kernels, sum the states of chunks over the
# wrong axis (transformers issues 34817, 47246) and normalise the gated output over its whole width where the kernels do
# so by group. The release in the test environment has none of that: it clamps by time_step_limit and groups by n_groups.
# The asserts below fail if another release is put there.


def make(directory, rng, steps=None, **settings):
    config = transformers.Mamba2Config(vocab_size=40, hidden_size=settings["num_heads"] * settings["head_dim"] // 2,
                                       num_hidden_layers=2, chunk_size=16, **settings)
    model = transformers.Mamba2ForCausalLM(config)
    mixer = model.backbone.layers[0].mixer
    assert mixer.norm.group_size * config.n_groups == mixer.intermediate_size
    segment_sum, seen = modeling_mamba2.segment_sum, []

    def recording(tensor):
        seen.append(tensor.detach().clone())  # first call of a layer: Δ·A [B,H,chunks,chunk]; second: its sums
        return segment_sum(tensor)

    modeling_mamba2.segment_sum = recording
    try:
        steps = steps or 2 * int(rng.integers(9, 25)) + 1  # odd, and several chunks of 16
        tokens, logits = hugging_face.run(directory, rng, model, steps, deviation=0.2)
    finally:
        modeling_mamba2.segment_sum = segment_sum
    assert len(seen) == 2 * config.num_hidden_layers, len(seen)
    case.write(directory, reference=hugging_face.REFERENCE, tokens=tokens, logits=logits, transitions={
        f"layers.{layer}.mamba2": case.log_magnitude(
            seen[2 * layer].flatten(2)[:, :, :steps].transpose(1, 2).unsqueeze(-1).numpy())
        for layer in range(config.num_hidden_layers)})


# --- the twin ---


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.where(x > 20, x, np.logaddexp(0, x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def linear(weights, name, x):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def norm(weights, name, x, rms, eps=1e-5):
    if not rms:
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weights[name + ".weight"]
    return y if rms else y + weights[name + ".bias"]


def ssm(weights, prefix, xbc, dt_raw, heads, groups, width, limit):
    """width: channels of x. Returns y before any gate, and Δ·A; with a weight A in place of A_log (pseudo-LTI), Δ goes into B
    and the log-decays [1,1,H] are the same at every step."""
    batch, steps, _ = xbc.shape
    kernel = weights[prefix + "conv1d.weight"][:, 0, :]
    taps = kernel.shape[1]
    padded = np.concatenate([np.zeros((batch, taps - 1, xbc.shape[2])), xbc], axis=1)
    mixed = sum(padded[:, k:k + steps] * kernel[:, k] for k in range(taps))
    mixed = silu(mixed + weights.get(prefix + "conv1d.bias", 0))
    order = (xbc.shape[2] - width) // (2 * groups)
    x = mixed[..., :width].reshape(batch, steps, heads, -1)
    b = mixed[..., width:width + groups * order].reshape(batch, steps, groups, order).repeat(heads // groups, axis=2)
    c = mixed[..., width + groups * order:].reshape(batch, steps, groups, order).repeat(heads // groups, axis=2)
    dt = np.clip(softplus(dt_raw + weights[prefix + "dt_bias"]), *limit)
    if prefix + "A" in weights:
        assert groups == 1
        b = b * np.repeat(dt, order // heads, axis=-1)[:, :, None]
        dt = np.broadcast_to(weights[prefix + "beta"], dt.shape)
        log_decay = dt * -softplus(weights[prefix + "A"])
    else:
        log_decay = dt * -np.exp(weights[prefix + "A_log"])
    h = np.zeros((batch, heads, x.shape[3], order)) + weights.get(prefix + "init_states", 0)
    y = np.zeros_like(x)
    for t in range(steps):
        h = np.exp(log_decay[:, t])[..., None, None] * h
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        y[:, t] = (h * c[:, t, :, None, :]).sum(-1)
    y = y + weights[prefix + "D"].reshape(heads, -1) * x
    return y.reshape(batch, steps, width), log_decay


def attention(weights, prefix, config, x):
    """mamba_ssm's MHA, of its attn_cfg. Returns its output, and what is expected of its eigenvalues."""
    count, groups = config["num_heads"], config.get("num_heads_kv") or config["num_heads"]
    size = config.get("head_dim") or x.shape[-1] // count
    projected = linear(weights, prefix + "in_proj", x)
    rows = (count + 2 * groups) * size
    qkv, up, gate = np.split(projected, [rows, (rows + projected.shape[-1]) // 2], -1)
    if config.get("d_conv"):
        qkv = plain.convolution(qkv, weights[prefix + "conv1d.weight"], weights[prefix + "conv1d.bias"])
    q, k, v = (plain.heads(part, size) for part in np.split(qkv, [count * size, (count + groups) * size], -1))
    if config.get("rotary_emb_dim"):
        q, k = (plain.rotary(part, config.get("rotary_emb_base", 10000.0), config["rotary_emb_dim"],
                             config.get("rotary_emb_interleaved", False)) for part in (q, k))
    o, lse = plain.attention(q * (config.get("softmax_scale") or size ** -0.5) * size ** 0.5, k, v)
    return linear(weights, prefix + "out_proj", np.concatenate([plain.flat(o), up * silu(gate)], -1)), case.softmax(lse)


def attention_shapes(prefix, config, width):
    count, groups = config["num_heads"], config.get("num_heads_kv") or config["num_heads"]
    size = config.get("head_dim") or width // count
    rows, mlp = (count + 2 * groups) * size, -(-config.get("mlp_dim", 0) // 256) * 256
    shapes = {prefix + "in_proj.weight": (rows + mlp, width), prefix + "out_proj.weight": (width, count * size + mlp // 2)}
    if config.get("qkv_proj_bias", True):
        shapes[prefix + "in_proj.bias"] = (rows + mlp,)
    if config.get("out_proj_bias", True):
        shapes[prefix + "out_proj.bias"] = (width,)
    if config.get("d_conv"):
        shapes.update({prefix + "conv1d.weight": (rows, 1, config["d_conv"]), prefix + "conv1d.bias": (rows,)})
    return shapes


def with_network(weights, block, x, rms, eps):
    """x and what the block's own MLP adds to it, where there is one."""
    if block + "mlp.fc1.weight" not in weights:
        return x
    up, gate = np.split(linear(weights, block + "mlp.fc1", norm(weights, block + "norm2", x, rms, eps)), 2, axis=-1)
    return x + linear(weights, block + "mlp.fc2", up * silu(gate))


def network_shapes(block, hidden, width, rms):
    hidden = -(-hidden // 128) * 128
    shapes = {block + "norm2.weight": (width,), block + "mlp.fc1.weight": (2 * hidden, width), block + "mlp.fc2.weight": (width, hidden)}
    return shapes | ({} if rms else {block + "norm2.bias": (width,)})


def official(weights, tokens, layers, *, width, groups, norm_groups, rms, limit, embedding, eps=1e-5, norm_first=False,
             attending=(), attn_cfg=None):
    """width: channels of x. Returns logits and every layer's Δ·A, or what is expected of its attention."""
    x = weights[embedding][tokens]
    decays = []
    for layer in range(layers):
        block = f"backbone.layers.{layer}."
        mixer = block + "mixer."
        if layer in attending:
            y, expected = attention(weights, mixer, attn_cfg, norm(weights, block + "norm", x, rms, eps))
            x = with_network(weights, block, x + y, rms, eps)
            decays.append(expected)
            continue
        heads = weights[mixer + "A_log"].shape[0]
        mlp = weights[mixer + "out_proj.weight"].shape[1] - width
        projected = linear(weights, mixer + "in_proj", norm(weights, block + "norm", x, rms, eps))
        z0, x0, z, xbc, dt_raw = np.split(projected, np.cumsum(
            [mlp, mlp, width, weights[mixer + "conv1d.weight"].shape[0]]), axis=-1)
        y, log_decay = ssm(weights, mixer, xbc, dt_raw, heads, groups, width, limit)
        if not norm_first:
            y = y * silu(z)
        if mixer + "norm.weight" in weights:
            grouped = y.reshape(*y.shape[:2], norm_groups, -1)
            grouped = grouped / np.sqrt((grouped * grouped).mean(-1, keepdims=True) + eps)
            y = grouped.reshape(y.shape) * weights[mixer + "norm.weight"]
        if norm_first:
            y = y * silu(z)
        y = np.concatenate([silu(z0) * x0, y], axis=-1)
        x = with_network(weights, block, x + linear(weights, mixer + "out_proj", y), rms, eps)
        decays.append(log_decay)
    return norm(weights, "backbone.norm_f", x, rms, eps) @ weights.get("lm_head.weight", weights[embedding]).T, decays


def paper(weights, inputs, layers, *, prenorm, pooling="none"):
    real = "encoder.weight" in weights
    x = linear(weights, "encoder", inputs) if real else weights["encoder.word_embeddings.weight"][inputs]
    decays = []
    for layer in range(layers):
        block = f"blocks.{layer}."
        mixer = block + "mamba."
        lti, heads = mixer + "A" in weights, weights[mixer + "D"].shape[0]
        width = weights[mixer + "out_proj.weight"].shape[1]
        y = norm(weights, block + "norm", x, False) if prenorm else x
        xbc, dt_raw = np.split(linear(weights, mixer + "in_proj", y), [-1 if lti else -heads], axis=-1)
        y, log_decay = ssm(weights, mixer, xbc, dt_raw, heads, 1, width, (0, math.inf))
        y = gelu(linear(weights, mixer + "out_proj", y))
        if block + "glu.linear.weight" in weights:
            first, second = np.split(linear(weights, block + "glu.linear", y), 2, axis=-1)
            y = first * sigmoid(second)
        x = x + y
        if not prenorm:
            x = norm(weights, block + "norm", x, False)
        decays.append(log_decay[0, 0] if lti else log_decay)
    pooled = {"none": x, "mean": x.mean(1, keepdims=True), "max": x.max(1, keepdims=True), "last": x[:, -1:]}[pooling]
    return linear(weights, "decoder", pooled), decays


def draw(rng, shapes):
    """float32, as they are stored; decay rates and norms around 1."""
    return {key: (rng.normal(float(key.endswith(("norm.weight", "norm2.weight", "norm_f.weight"))), 0.3, shape)).astype(np.float32)
            for key, shape in shapes.items()}


def double(weights):
    return {key: value.astype(np.float64) for key, value in weights.items()}


def save_torch(weights, path):
    torch.save({key: torch.from_numpy(value) for key, value in weights.items()}, path)


def by_layer(mixer, found):
    """found: of each layer log λ [B,T,U,K] of its `mixer`, or what `attention` expects."""
    return {f"layers.{layer}.attention" if isinstance(x, dict) else f"layers.{layer}.{mixer}":
            x if isinstance(x, dict) else case.log_magnitude(x) for layer, x in enumerate(found)}


def write(directory, tokens, logits, decays, reference=TWIN, **facts):
    case.write(directory, reference=reference, tokens=tokens, logits=logits, dtypes=("float64", "float32"),
               transitions=by_layer("mamba2", [found if isinstance(found, dict) else found[..., None] for found in decays]), **facts)


def official_shapes(layout, vocabulary, width, layers, *, heads, head_width, order, groups, taps, mlp=0, gated_norm=True,
                    rms=True, bias=False, conv_bias=True, wide_skip=False, tied=True, attending=(), attn_cfg=None, network=0):
    inner, embedding = heads * head_width, "backbone.embedding.weight"
    if layout == "huggingface":
        embedding = "backbone.embeddings.weight"
    conv = inner + 2 * groups * order
    norms = [f"backbone.layers.{layer}.norm" for layer in range(layers)] + ["backbone.norm_f"]
    shapes = {embedding: (vocabulary, width)}
    shapes.update({name + ".weight": (width,) for name in norms})
    if not rms:
        shapes.update({name + ".bias": (width,) for name in norms})
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, width)
    for layer in range(layers):
        block = f"backbone.layers.{layer}."
        mixer = block + "mixer."
        if network:
            shapes.update(network_shapes(block, network, width, rms))
        if layer in attending:
            shapes.update(attention_shapes(mixer, attn_cfg, width))
            continue
        rows = 2 * mlp + inner + conv + heads
        shapes.update({mixer + "in_proj.weight": (rows, width), mixer + "out_proj.weight": (width, mlp + inner),
                       mixer + "conv1d.weight": (conv, 1, taps), mixer + "A_log": (heads,), mixer + "dt_bias": (heads,),
                       mixer + "D": (inner if wide_skip else heads,)})
        if conv_bias:
            shapes[mixer + "conv1d.bias"] = (conv,)
        if gated_norm:
            shapes[mixer + "norm.weight"] = (inner,)
        if bias:
            shapes.update({mixer + "in_proj.bias": (rows,), mixer + "out_proj.bias": (width,)})
    return shapes, embedding


def make_state_spaces(directory, rng, *, heads, groups, taps=4, limit=None, layers=2, **options):
    """pytorch_model.bin beside a config.json without model_type, as mamba_ssm's save_pretrained writes them."""
    head_width, order, vocabulary = 2 * int(rng.integers(2, 6)), int(rng.integers(3, 10)), 48
    mlp = options.get("mlp", 0)
    width = (heads * head_width + mlp) // 2
    shapes, embedding = official_shapes("state-spaces", vocabulary, width, layers, heads=heads, head_width=head_width,
                                        order=order, groups=groups, taps=taps, **options)
    weights = draw(rng, shapes)
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    logits, decays = official(double(weights), tokens, layers, width=heads * head_width, groups=groups, norm_groups=groups,
                              rms=options.get("rms", True), limit=limit or (0, math.inf), embedding=embedding,
                              attending=options.get("attending", ()), attn_cfg=options.get("attn_cfg"))
    ssm_cfg = {"layer": "Mamba2", "d_state": order, "headdim": head_width, "ngroups": groups, "d_conv": taps}
    if limit:
        ssm_cfg["dt_limit"] = limit
    for name, key, default in [("rmsnorm", "gated_norm", True), ("bias", "bias", False), ("conv_bias", "conv_bias", True),
                               ("D_has_hdim", "wide_skip", False)]:
        if options.get(key, default) != default:
            ssm_cfg[name] = not default
    if mlp:
        ssm_cfg["d_ssm"] = heads * head_width
    config = {"d_model": width, "n_layer": layers, "vocab_size": vocabulary - 5, "ssm_cfg": ssm_cfg,
              "rms_norm": options.get("rms", True), "residual_in_fp32": True, "fused_add_norm": True,
              "pad_vocab_size_multiple": 16, "tie_embeddings": options.get("tied", True), "attn_layer_idx": [*options.get("attending", ())],
              "attn_cfg": options.get("attn_cfg") or {}, "d_intermediate": options.get("network", 0)}
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    if config["tie_embeddings"]:
        weights["lm_head.weight"] = weights[embedding]
    save_torch(weights, checkpoint / "pytorch_model.bin")
    (checkpoint / "config.json").write_text(json.dumps(config))
    write(directory, tokens, logits, decays, HYBRID_TWIN if config["attn_layer_idx"] or config["d_intermediate"] else TWIN)


def make_older_norm(directory, rng):
    """A model of transformers before 5, whose gated norm spans all groups; the setting says so."""
    heads, groups, head_width, order, layers, vocabulary = 8, 4, 6, 5, 2, 48
    width, limit = heads * head_width // 2, (0.01, math.inf)
    shapes, embedding = official_shapes("huggingface", vocabulary, width, layers, heads=heads, head_width=head_width,
                                        order=order, groups=groups, taps=2, bias=True, tied=False)
    weights = draw(rng, shapes)
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    logits, decays = official(double(weights), tokens, layers, width=heads * head_width, groups=groups, norm_groups=1,
                              rms=True, limit=limit, embedding=embedding)
    config = transformers.Mamba2Config(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_heads=heads,
                                       head_dim=head_width, state_size=order, n_groups=groups, conv_kernel=2, use_bias=True,
                                       time_step_limit=limit, tie_word_embeddings=False)
    config.save_pretrained(directory / "checkpoint")
    save_file(weights, directory / "checkpoint/model.safetensors", metadata={"format": "pt"})
    write(directory, tokens, logits, decays, settings={"gated_norm_groups": 1})


def make_fla(directory, rng, *, groups, wide_skip=False, norm_first=False, gated_norm=True):
    """As fla's Mamba2ForCausalLM saves it: transformers' names of weights, its own names of settings. Its path without
    kernels repeats B and C of groups in the wrong order (repeat for repeat_interleave); the kernels' order is taken."""
    heads, head_width, order, taps, layers, vocabulary, eps, limit = 8, 4, int(rng.integers(3, 10)), 4, 2, 48, 1e-3, (0.01, 0.5)
    width = heads * head_width // 2
    shapes, embedding = official_shapes("huggingface", vocabulary, width, layers, heads=heads, head_width=head_width, order=order,
                                        groups=groups, taps=taps, wide_skip=wide_skip, gated_norm=gated_norm, tied=False)
    weights = draw(rng, shapes)
    tokens = rng.integers(0, vocabulary, (2, int(rng.integers(20, 60))))
    logits, decays = official(double(weights), tokens, layers, width=heads * head_width, groups=groups, norm_groups=groups,
                              rms=True, limit=limit, embedding=embedding, eps=eps, norm_first=norm_first)
    config = {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "vocab_size": vocabulary, "hidden_size": width,
              "state_size": order, "num_hidden_layers": layers, "norm_eps": eps, "conv_kernel": taps, "expand": 2,
              "use_bias": False, "use_conv_bias": True, "hidden_act": "silu", "n_groups": groups, "head_dim": head_width,
              "num_heads": heads, "rmsnorm": gated_norm, "D_has_hdim": wide_skip, "norm_before_gate": norm_first,
              "chunk_size": 256, "dt_limit": limit, "dt_min": 0.001, "dt_max": 0.1, "dt_init_floor": 1e-4, "fuse_norm": True,
              "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False, "A_init_range": [1, 16],
              "residual_in_fp32": True, "initializer_range": 0.02, "tie_word_embeddings": False}
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    (checkpoint / "config.json").write_text(json.dumps(config))
    write(directory, tokens, logits, decays, FLA_TWIN)


def make_paper(directory, rng, *, prenorm, glu, expansion, heads, learned_start=False, lti=False, channels=0, classes=48,
               pooling="none"):
    """A .pth of a bare state dict, as the authors save them; what it does not say is passed as settings. channels: real
    inputs a step; 0: tokens."""
    head_width, order, taps, layers, vocabulary = 2 * int(rng.integers(2, 6)), int(rng.integers(3, 10)), 4, 2, 48
    if lti:
        order *= expansion * heads
    width = heads * head_width
    inner, conv = expansion * width, expansion * width + 2 * order
    shapes = {"decoder.weight": (classes, width), "decoder.bias": (classes,)}
    if channels:
        shapes.update({"encoder.weight": (width, channels), "encoder.bias": (width,)})
    else:
        shapes["encoder.word_embeddings.weight"] = (vocabulary, width)
    for layer in range(layers):
        block = f"blocks.{layer}."
        mixer = block + "mamba."
        shapes.update({block + "norm.weight": (width,), block + "norm.bias": (width,),
                       mixer + "in_proj.weight": (conv + (1 if lti else expansion * heads), width),
                       mixer + "out_proj.weight": (width, inner), mixer + "conv1d.weight": (conv, 1, taps),
                       mixer + "conv1d.bias": (conv,), mixer + ("A" if lti else "A_log"): (expansion * heads,),
                       mixer + "dt_bias": (expansion * heads,), mixer + "D": (expansion * heads,)})
        if glu:
            shapes.update({block + "glu.linear.weight": (2 * width, width), block + "glu.linear.bias": (2 * width,)})
        if learned_start:
            shapes[mixer + "init_states"] = (expansion * heads, head_width, order)
        if lti:
            shapes[mixer + "beta"] = (expansion * heads,)
    weights = draw(rng, shapes)
    weights.update({key: 1 + abs(value) for key, value in weights.items() if key.endswith(".beta")})
    steps = int(rng.integers(20, 60))
    inputs = rng.normal(size=(2, steps, channels)) if channels else rng.integers(0, vocabulary, (2, steps))
    logits, decays = paper(double(weights), inputs, layers, prenorm=prenorm, pooling=pooling)
    save_torch(weights, directory / "ssd.pth")
    settings = {"prenorm": prenorm} | ({"pooling": pooling} if pooling != "none" or channels else {})
    write(directory, inputs, logits, decays, reference=PAPER_TWIN, checkpoint="ssd.pth", settings=settings)


# As mamba2attn-2.7b has it, and the rest of what it may say.
ATTENTION = {"causal": True, "d_conv": 4, "head_dim": 12, "num_heads": 3, "out_proj_bias": False, "qkv_proj_bias": False,
             "rotary_emb_dim": 6}
OTHER_ATTENTION = {"causal": True, "num_heads": 4, "num_heads_kv": 2, "mlp_dim": 300, "softmax_scale": 0.3, "rotary_emb_dim": 4,
                   "rotary_emb_base": 500.0, "rotary_emb_interleaved": True, "head_dim": 6}

CASES = {
    "mamba2/huggingface/groups": functools.partial(make, num_heads=8, head_dim=4, state_size=6, n_groups=2, conv_kernel=3,
                                                   tie_word_embeddings=False),
    "mamba2/huggingface/plain": functools.partial(make, num_heads=4, head_dim=8, state_size=8, n_groups=1, conv_kernel=4,
                                                  tie_word_embeddings=True),
    "mamba2/huggingface/conv_of_two": functools.partial(make, num_heads=2, head_dim=16, state_size=5, n_groups=2,
                                                        conv_kernel=2, tie_word_embeddings=True),
    "mamba2/huggingface/limits": functools.partial(make, num_heads=4, head_dim=8, state_size=8, n_groups=1, conv_kernel=4,
                                                   time_step_limit=(0.05, 0.4)),
    "mamba2/huggingface/lower_limit": functools.partial(make, num_heads=4, head_dim=8, state_size=8, n_groups=4,
                                                        time_step_limit=(0.05, math.inf)),
    "mamba2/huggingface/biases": functools.partial(make, num_heads=4, head_dim=8, state_size=7, n_groups=1, use_bias=True,
                                                   use_conv_bias=False),
    # Shorter than the convolution.
    "mamba2/huggingface/short": functools.partial(make, steps=3, num_heads=4, head_dim=8, state_size=8, n_groups=1,
                                                  layer_norm_epsilon=1e-3, residual_in_fp32=False),
    "mamba2/huggingface/older_norm": make_older_norm,
    "mamba2/state-spaces/plain": functools.partial(make_state_spaces, heads=4, groups=1),
    "mamba2/state-spaces/groups": functools.partial(make_state_spaces, heads=8, groups=2, taps=3, tied=False),
    "mamba2/state-spaces/options": functools.partial(make_state_spaces, heads=6, groups=1, mlp=12, rms=False,
                                                     gated_norm=False, bias=True, conv_bias=False, wide_skip=True,
                                                     limit=[0.01, 0.5]),
    "mamba2/state-spaces/attention": functools.partial(make_state_spaces, heads=4, groups=1, layers=3, attending=[1],
                                                       attn_cfg=ATTENTION),
    "mamba2/state-spaces/attention_first": functools.partial(make_state_spaces, heads=4, groups=2, layers=3, attending=[0, 2],
                                                             attn_cfg=OTHER_ATTENTION, network=100),
    "mamba2/state-spaces/networks": functools.partial(make_state_spaces, heads=4, groups=1, rms=False, network=130, tied=False),
    "mamba2/fla/groups": functools.partial(make_fla, groups=2),
    "mamba2/fla/norm_first": functools.partial(make_fla, groups=4, norm_first=True, wide_skip=True),
    "mamba2/fla/no_norm": functools.partial(make_fla, groups=1, gated_norm=False),
    "mamba2/paper/plain": functools.partial(make_paper, prenorm=True, glu=True, expansion=1, heads=2),
    "mamba2/paper/post_norm": functools.partial(make_paper, prenorm=False, glu=False, expansion=2, heads=2,
                                                learned_start=True),
    "mamba2/paper/classifier": functools.partial(make_paper, prenorm=True, glu=True, expansion=1, heads=4, classes=5,
                                                 pooling="mean"),
    "mamba2/paper/real_inputs": functools.partial(make_paper, prenorm=False, glu=True, expansion=1, heads=2, classes=10,
                                                  channels=3, pooling="max"),
    "mamba2/paper/pseudo_lti": functools.partial(make_paper, prenorm=False, glu=True, expansion=1, heads=4, lti=True,
                                                 classes=10, channels=1, pooling="last"),
    "mamba2/paper/pseudo_lti_tokens": functools.partial(make_paper, prenorm=True, glu=False, expansion=2, heads=2, lti=True),
}
