#!/usr/bin/env python3
"""Eigenvalues of products of matrices in as many digits as it takes, with mpmath (deploy/requirements/oracle.txt).

    oracle_windows.py > golden/windows.json

Factors are drawn as tests/kernels/window_factors.h draws them, of numbers that a double holds exactly; their
product is formed in whole numbers, without a rounding, and solved with more digits than its eigenvalues span.
"""

import json

import mpmath


class Draw:
    """A linear congruential generator: numbers of 12 bits in [-1, 1)."""

    def __init__(self, seed):
        self.state = seed

    def __call__(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 52) - 2**11


def factors(kind, order, length, seed):
    """Of whole numbers, in units of 2^-24."""
    draw = Draw(seed)
    if kind == "iid":
        return [[[draw() * 2**13 for _ in range(order)] for _ in range(order)] for _ in range(length)]
    # A gated unit's Jacobian: diag(f) + diag(g) W with the same W at each step, f in [1/2, 1), g in [-1/4, 1/4).
    weights = [[draw() for _ in range(order)] for _ in range(order)]
    steps = []
    for _ in range(length):
        f = [draw() + 3 * 2**11 for _ in range(order)]
        g = [draw() for _ in range(order)]
        steps.append([[g[i] * weights[i][j] + (f[i] * 2**11 if i == j else 0) for j in range(order)]
                      for i in range(order)])
    return steps


def product(steps):
    order = len(steps[0])
    result = steps[0]
    for step in steps[1:]:
        columns = list(zip(*result))
        result = [[sum(a * b for a, b in zip(row, column)) for column in columns] for row in step]
    return result, 24 * len(steps), order


def eigenvalues(steps):
    matrix, exponent, order = product(steps)
    mpmath.mp.dps = 100 + 6 * len(steps)
    scale = mpmath.mpf(2) ** -exponent
    values, _ = mpmath.eig(mpmath.matrix([[mpmath.mpf(x) * scale for x in row] for row in matrix]))
    values = sorted(values, key=lambda value: (-abs(value), -mpmath.arg(value)))
    return {"log_magnitude": [float(mpmath.log(abs(value))) for value in values],
            "phase": [float(mpmath.arg(value)) for value in values]}


def main():
    cases = []
    for kind in ("iid", "gated"):
        for order, length in ((3, 5), (8, 16), (8, 64), (8, 256), (12, 256)):
            case = {"kind": kind, "order": order, "length": length, "seed": 100 * order + length}
            case.update(eigenvalues(factors(kind, order, length, case["seed"])))
            cases.append(case)
    print(json.dumps({"cases": cases}, indent=1))


if __name__ == "__main__":
    main()
