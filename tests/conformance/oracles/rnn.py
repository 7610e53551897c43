"""LSTM, GRU and RNN language models against torch.nn in float64, as PyTorch's word_language_model example makes them (encoder,
rnn, decoder), and with other usual names. The transition of a step is torch.autograd.functional.jacobian of torch.nn's own
cell at the states that the layers went through."""

import functools

import numpy as np
import torch

import case

REFERENCE = f"torch.nn {torch.__version__.split('+')[0]}, Jacobians by autograd"
CELLS = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "rnn": torch.nn.RNNCell}


class Model(torch.nn.Module):
    def __init__(self, rnn, vocabulary, width, names, tied, head_bias):
        super().__init__()
        self.names = names
        self.add_module(names[0], torch.nn.Embedding(vocabulary, width))
        self.add_module(names[1], rnn)
        self.add_module(names[2], torch.nn.Linear(rnn.hidden_size, vocabulary, bias=head_bias))
        if tied:
            getattr(self, names[2]).weight = getattr(self, names[0]).weight

    def forward(self, tokens):
        embedding, rnn, head = (getattr(self, name) for name in self.names)
        return head(rnn(embedding(tokens))[0])


def jacobians(family, rnn, layer, inputs):
    """inputs [B,T,in] of a layer. Returns its outputs and Λ [B,T,1,N,N]; N = 2·hidden of an LSTM's (h, c)."""
    options = {"nonlinearity": rnn.nonlinearity} if family == "rnn" else {}
    cell = CELLS[family](inputs.shape[-1], rnn.hidden_size, bias=rnn.bias, **options).double()
    cell.load_state_dict({name: getattr(rnn, f"{name}_l{layer}") for name in cell.state_dict()})
    size = rnn.hidden_size * (2 if family == "lstm" else 1)
    outputs, matrices = [], []
    for row in inputs:
        state, states, of_row = torch.zeros(size, dtype=torch.float64), [], []
        for x in row:
            def step(s, x=x):
                if family != "lstm":
                    return cell(x[None], s[None])[0]
                h, c = s.chunk(2)
                return torch.cat(cell(x[None], (h[None], c[None])), -1)[0]

            of_row.append(torch.autograd.functional.jacobian(step, state))
            state = step(state).detach()
            states.append(state[:rnn.hidden_size])
        outputs.append(torch.stack(states))
        matrices.append(torch.stack(of_row))
    return torch.stack(outputs), torch.stack(matrices).unsqueeze(2).detach().numpy()


def make(directory, rng, family, *, names=("encoder", "rnn", "decoder"), layers=2, bias=True, head_bias=True, tied=False,
         nonlinearity=None, hidden=None):
    hidden = hidden or int(rng.integers(3, 8))
    width, vocabulary = hidden if tied else int(rng.integers(3, 10)), 40
    options = {"nonlinearity": nonlinearity} if nonlinearity else {}
    rnn = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[family](
        width, hidden, layers, bias=bias, batch_first=True, **options)
    model = Model(rnn, vocabulary, width, names, tied, head_bias)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.6, parameter.shape).astype(np.float32)))
    torch.save(model.state_dict(), directory / "model.pt")
    model.double()
    tokens = torch.from_numpy(rng.integers(0, vocabulary, (2, int(rng.integers(10, 25)))))
    with torch.no_grad():
        logits = model(tokens)
    x, transitions = getattr(model, names[0])(tokens).detach(), {}
    for layer in range(layers):
        x, matrices = jacobians(family, rnn, layer, x)
        transitions[f"layers.{layer}.{family}"] = case.dense(matrices)
    assert (getattr(model, names[2])(x) - logits).abs().max() < 1e-12
    settings = {"nonlinearity": nonlinearity} if nonlinearity else None
    case.write(directory, reference=REFERENCE, tokens=tokens.numpy(), logits=logits.numpy(), checkpoint="model.pt",
               dtypes=("float64", "float32"), transitions=transitions, settings=settings)


CASES = {
    "lstm/torch/word_language_model": functools.partial(make, family="lstm"),
    "lstm/torch/other_names": functools.partial(make, family="lstm", names=("embedding", "lstm", "fc"), layers=3, bias=False),
    "lstm/torch/tied": functools.partial(make, family="lstm", tied=True, layers=1, hidden=8),
    "gru/torch/word_language_model": functools.partial(make, family="gru"),
    "gru/torch/other_names": functools.partial(make, family="gru", names=("emb", "gru", "head"), bias=False, head_bias=False),
    "rnn/torch/tanh": functools.partial(make, family="rnn", nonlinearity="tanh"),
    # Its Jacobians are mostly singular: rows of units that are off are zero.
    "rnn/torch/relu": functools.partial(make, family="rnn", nonlinearity="relu", layers=1),
}
