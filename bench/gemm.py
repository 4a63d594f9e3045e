"""The yardstick: matrix products that this machine sustains now, at the shapes of SmolLM2-135M's layers; bf16 where it
multiplies that, fp32 elsewhere, as the planner chooses. torch's, and ours where it is faster: in fp32, on AMD.

Prints {"flops": FLOP/s}: the best window of the best shape. A window and not a single product: one product now and
then runs at twice the speed that lasts. Run as a process of its own, before and after each contestant.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

import harness
from sartor.ops.product import Plain, products

ROWS, INNER, COLUMNS = (512, 1024, 2048), 576, 1536
WINDOWS, SECONDS = 4, 0.4


def sustained(rows: int, dtype: torch.dtype, product: Callable[..., object]) -> float:
    """FLOP/s over the best of a few windows. The first is a warm-up as well."""
    left_MK = torch.randn(rows, INNER).to(dtype)
    right_KN = torch.randn(INNER, COLUMNS).to(dtype)
    out_MN = torch.empty(rows, COLUMNS, dtype=dtype)
    best = 0.0
    for _ in range(WINDOWS):
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            product(left_MK, right_KN, out_MN)
            count += 1
        best = max(best, 2.0 * rows * INNER * COLUMNS * count / elapsed)
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    torch.set_num_threads(parser.parse_args().threads)
    dtype = vars(torch)[harness.dtype()]
    known = {type(each): each for each in (products(dtype), Plain())}.values()  # one where torch's is the fastest
    print(json.dumps({"flops": max(sustained(rows, dtype, each.multiply) for rows in ROWS for each in known)}))
