"""Eigenvalues and condition numbers of diag(d) - u v^T by mpmath's QR algorithm on the explicit matrix.

Input: a JSON list of {"digits": n, "d": [[re, im], ...], "u": [[[re, im], ...rank], ...], "v": likewise}.
Output: for each {"values": [[re, im], ...], "condition": [...]} in mpmath's order.
"""
import json
import sys

import mpmath as mp


def number(pair):
    return mp.mpc(*pair)


def solve(problem):
    mp.mp.dps = problem["digits"]
    d, u, v = problem["d"], problem["u"], problem["v"]
    size, rank = len(d), len(u[0])
    matrix = mp.matrix(size, size)
    for i in range(size):
        for j in range(size):
            entry = number(d[i]) if i == j else mp.mpc(0)
            for a in range(rank):
                entry -= number(u[i][a]) * number(v[j][a])
            matrix[i, j] = entry
    values, left, right = mp.eig(matrix, left=True, right=True)
    conditions = []
    for k in range(size):
        x, y = right[:, k], left[k, :]
        norms = mp.norm(x, 2) * mp.sqrt(sum(abs(z) ** 2 for z in y))
        conditions.append(float(norms / abs((y * x)[0])))
    return {"values": [[float(z.real), float(z.imag)] for z in values], "condition": conditions}


if __name__ == "__main__":
    with open(sys.argv[1]) as source:
        problems = json.load(source)
    with open(sys.argv[2], "w") as target:
        json.dump([solve(problem) for problem in problems], target)
