"""The yardstick: the best bf16 matrix product that this machine does now, at the shapes of SmolLM2-135M's layers.

Prints {"flops": FLOP/s}. Run as a process of its own, before and after each contestant.
"""

from __future__ import annotations

import argparse
import json

from sartor.hardware import measure_flops

ROWS = (512, 1024, 2048)

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    print(json.dumps({"flops": max(measure_flops("bfloat16", threads, rows=rows) for rows in ROWS)}))
