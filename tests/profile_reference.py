# SPDX-License-Identifier: Apache-2.0
"""Prints the numbers that test_profile_train.cc expects: the sensitivity formulas of codec/attention_sensitivity.h and
the ridge regression of codec/token_weight_fit.h, written out in numpy (float64), on a small made-up layer.

    python3 tests/profile_reference.py
"""

import numpy as np

TOKENS, QUERIES, PREFIX = 40, 8, 32
QUERY_HEADS, KV_HEADS, DIM = 4, 2, 4
WIDTH, POWER, DRAWS, SEED, LAYER = 6, 3.0, 2, 7, 3
BASE, SCALE = 100.0, 0.5
SINKS = 4


class Numbers:
    """In [-1, 1): an LCG's high bits, the same in C++."""

    def __init__(self, state):
        self.state = state

    def take(self, *shape):
        out = np.empty(int(np.prod(shape)))
        for i in range(out.size):
            self.state = (self.state * 1103515245 + 12345) % 2**31
            out[i] = (self.state >> 16) / 16384.0 - 1.0
        return out.reshape(shape)


def uniform(seed, place):
    mask = 2**64 - 1
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def unrotate(row, position):
    out = row.copy()
    for j in range(DIM // 2):
        angle = position * BASE ** (-2 * j / DIM)
        c, s = np.cos(angle), np.sin(angle)
        a, b = row[2 * j], row[2 * j + 1]
        out[2 * j], out[2 * j + 1] = a * c + b * s, b * c - a * s
    return out


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


def main():
    numbers = Numbers(1)
    query = numbers.take(QUERIES, QUERY_HEADS, DIM) * 3
    key = numbers.take(TOKENS, KV_HEADS, DIM) * 3
    value = numbers.take(TOKENS, KV_HEADS, DIM)
    output = numbers.take(WIDTH, QUERY_HEADS, DIM)  # the projection

    group = QUERY_HEADS // KV_HEADS
    f_key, f_value = np.zeros((KV_HEADS, DIM, DIM)), np.zeros((KV_HEADS, DIM, DIM))
    w_key, w_value = np.zeros((KV_HEADS, PREFIX)), np.zeros((KV_HEADS, PREFIX))
    for hq in range(QUERY_HEADS):
        h = hq // group
        m = output[:, hq].T @ output[:, hq] / POWER
        for i in range(QUERIES):
            q = query[i, hq]
            a = softmax(SCALE * key[: PREFIX + i + 1, h] @ q)
            if i == 0 and hq == 0:
                print("output[0][0]", a @ value[: PREFIX + i + 1, h])
            a = a[:PREFIX]
            v = value[:PREFIX, h]
            o = a @ v / max(a.sum(), 1e-3)
            w_value[h] += a**2 * np.trace(m) / DIM
            f_value[h] += (a[SINKS:] ** 2).sum() * m
            cost = a**2 * np.einsum("td,de,te->t", v - o, m, v - o) * SCALE**2
            w_key[h] += cost * (q @ q) / DIM
            cost[:SINKS] = 0
            total, passed, t = cost.sum(), cost[SINKS], SINKS
            start = uniform(SEED, (LAYER << 40) + (hq << 24) + i)
            for j in range(DRAWS):
                wanted = (j + start) / DRAWS * total
                while passed <= wanted and t + 1 < PREFIX:
                    t += 1
                    passed += cost[t]
                back = unrotate(q, t)
                f_key[h] += np.outer(back, back) * total / DRAWS
    np.set_printoptions(precision=7, suppress=False, linewidth=100)
    for name, found in (("key", f_key), ("value", f_value)):
        print(name, "F[1]", found[1])
    print("key weights[0][3..8)", w_key[0, 3:8])
    print("value weights[1][3..8)", w_value[1, 3:8])

    # Ridge: keys of KV head 0 with RoPE undone, targets as the trainer has them, standardised features, lambda 30.
    keys = np.array([unrotate(key[t, 0], t) for t in range(PREFIX)])[SINKS:]
    t = np.arange(SINKS, PREFIX)
    x = np.column_stack([keys, np.linalg.norm(keys, axis=1), np.log(PREFIX - t), np.log(t + 1), t / PREFIX])
    y = np.zeros(len(t))
    for w in (w_key[0, SINKS:], w_value[0, SINKS:]):
        y += (np.log(w + 1e-30) - np.log(w + 1e-30).mean()) / 2
    mean, deviation = x.mean(0), x.std(0, ddof=1) + 1e-6
    z = np.column_stack([(x - mean) / deviation, np.ones(len(t))])
    w = np.linalg.solve(z.T @ z + 30 * np.eye(z.shape[1]), z.T @ y)
    plain = w[:-1] / deviation
    print("ridge", np.append(plain, w[-1] - plain @ mean))


main()
