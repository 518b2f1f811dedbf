"""The gates as slow loops over single numbers, written from the formulas."""

import itertools
import math

import numpy as np


def smooth_step(z, gamma):
    if z <= -gamma / 2:
        return 0.0
    if z >= gamma / 2:
        return 1.0
    return -2 * z**3 / gamma**3 + 3 * z / (2 * gamma) + 0.5


def reach_leaves(splits, node=0, reach=1.0):
    """Probabilities of the leaves below a node, from left to right."""
    if node >= len(splits):
        return [reach]
    left = reach_leaves(splits, 2 * node + 1, reach * splits[node])
    right = reach_leaves(splits, 2 * node + 2, reach * (1 - splits[node]))
    return left + right


def comet(x, split_kernel, split_bias, leaf_kernel, leaf_bias, gamma):
    """`sum_j v_je exp(a_je) / sum_{j,l} v_jl exp(a_jl)` for every row."""
    _, k, n = leaf_kernel.shape
    rows = np.zeros((len(x), n))
    for b, tree in itertools.product(range(len(x)), range(k)):
        splits = [
            smooth_step(
                x[b] @ split_kernel[:, tree, i] + split_bias[tree, i], gamma
            )
            for i in range(n - 1)
        ]
        for expert, reach in enumerate(reach_leaves(splits)):
            logit = (
                x[b] @ leaf_kernel[:, tree, expert] + leaf_bias[tree, expert]
            )
            rows[b, expert] += reach * math.exp(logit)
    return rows / rows.sum(axis=1, keepdims=True)


def reach_codes(digits, num_codes):
    """Probability of each code, its most significant digit first."""
    m = len(digits)
    return [
        math.prod(
            digits[i] if code >> (m - 1 - i) & 1 else 1 - digits[i]
            for i in range(m)
        )
        for code in range(num_codes)
    ]


def dselect_k(digit_logits, weight_logits, n, gamma):
    """Rows of one example from `(k, m)` digit and `(k,)` mixture logits."""
    k, m = digit_logits.shape
    weights = np.exp(weight_logits - weight_logits.max())
    weights /= weights.sum()
    row = np.zeros(2**m)
    for selector in range(k):
        digits = [smooth_step(z, gamma) for z in digit_logits[selector]]
        row += weights[selector] * np.array(reach_codes(digits, 2**m))
    if not row[:n].any():
        # All mass is on codes of no expert: their first digit becomes 0.
        for code in range(n, 2**m):
            row[code - 2 ** (m - 1)] += row[code]
    return row[:n] / row[:n].sum()


def top_k(logits, k):
    """Softmax over the k largest logits of one example."""
    kept = sorted(range(len(logits)), key=lambda e: (-logits[e], e))[:k]
    largest = max(logits[e] for e in kept)
    row = np.zeros(len(logits))
    for expert in kept:
        row[expert] = math.exp(logits[expert] - largest)
    return row / row.sum()


def split_mix_64(identity, seed):
    """The output of SplitMix64 number `seed` from the state `identity`."""
    mask = 2**64 - 1
    z = (identity + seed * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def sip_hash(key, message):
    """SipHash-2-4 of bytes under a key of two 64-bit numbers."""
    mask = 2**64 - 1

    def rotate(value, places):
        return (value << places | value >> (64 - places)) & mask

    def mix(v0, v1, v2, v3):
        v0 = (v0 + v1) & mask
        v1 = rotate(v1, 13) ^ v0
        v0 = rotate(v0, 32)
        v2 = (v2 + v3) & mask
        v3 = rotate(v3, 16) ^ v2
        v0 = (v0 + v3) & mask
        v3 = rotate(v3, 21) ^ v0
        v2 = (v2 + v1) & mask
        v1 = rotate(v1, 17) ^ v2
        return v0, v1, rotate(v2, 32), v3

    state = (
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    )
    padding = -(len(message) + 1) % 8
    message += bytes(padding) + bytes([len(message) % 256])
    for start in range(0, len(message), 8):
        word = int.from_bytes(message[start : start + 8], "little")
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = mix(*mix(v0, v1, v2, v3 ^ word))
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = mix(*mix(*mix(*mix(v0, v1, v2 ^ 0xFF, v3))))
    return v0 ^ v1 ^ v2 ^ v3
