"""The random numbers of a training step: words of a hash, the same on every machine and target.

A word is a float32 that holds a multiple of 2^-11, so that graphs can compute with it exactly; what they
do with it is in `passes/dropout_masks.py`. Imports no torch: a device makes the keys of each step itself.
"""

from __future__ import annotations

import hashlib

import numpy as np

ROUNDS = 4
WORD_BITS = 11


def words(count: int, label: str, bits: int = WORD_BITS) -> np.ndarray:
    """`count` words below 2^(bits - 11) that `label` alone decides, float32 `[count]`."""
    drawn = np.frombuffer(hashlib.shake_256(label.encode()).digest(2 * count), dtype="<u2") >> (16 - bits)
    return (drawn / 2**WORD_BITS).astype(np.float32)


def step_keys(seed: int, step: int) -> np.ndarray:
    """The `seed` input of the step after `step` others: one key a round, float32 `[ROUNDS]`."""
    return words(ROUNDS, f"pockgraph step {seed} {step}")
