"""The kernels compiled for cards that are not here: `python gpu_cards.py CAPABILITY small|roomy [WHICH]`.

It prints the bytes of shared memory that each asks for. All take two minutes; `test_gpu_forest.py` runs it for the one
that asks for most.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sartor.ops.gpu import forest, forest_kernels, paged, paged_kernels

INTEGERS = ("offsets", "parents", "positions", "blocks", "ends", "spans", "pages")
SUMS = ("logsumexp", "deltas")
NUMBERS = ("scale", "softcap")
#: Query heads for each key head, and head size: Llama's, Gemma's, and the most that any known model has together.
HEADS = ((4, 64), (4, 128), (8, 256))
PAGED_HEADS = (*HEADS, (48, 128))


def type_of(name: str) -> str:
    if name in INTEGERS:
        return "*i32"
    if name in SUMS:
        return "*fp32"
    if name in NUMBERS:
        return "fp32"
    counts = name.startswith("num") or name.endswith("stride") or name in ("window", "query_token", "query_head")
    return "i32" if counts else "*bf16"


def shared(kernel: Any, capability: int, options: dict[str, int], **constants: Any) -> int:
    """Bytes of shared memory that a program needs on a card of a compute capability."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name) for name in names}
    source = ASTSource(
        fn=kernel, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()}
    )
    return int(triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).metadata.shared)


def of_forest(name: str, sizes: dict[int, tuple[int, ...]], capability: int, group: int, size: int) -> int:
    rows, keys, warps, stages = sizes[size]
    constants = {"GROUP": group, "SIZE": size, "WINDOWED": True, "BLOCK_M": rows, "BLOCK_N": keys, "BLOCK_C": size}
    if name == "backward_keys":
        constants["STEP"] = forest._step(rows, group)
    kernel = vars(forest_kernels)[name]
    return shared(kernel, capability, {"num_warps": warps, "num_stages": stages}, **constants)


def of_pages(capability: int, group: int, size: int) -> int:
    tokens = paged.tokens_of_program(group, size)
    return shared(
        paged_kernels.attend, capability, {},
        NUM_HEADS=group, NUM_GROUPS=1, SIZE=size, PAGE=paged.PAGE, CAPPED=True, TOKENS=tokens,
        ROWS=paged.rows_of_program(tokens, group), KEYS=paged.KEYS, WIDTH=size,
    )  # fmt: skip


def main(capability: int, wanted: str, *, roomy: bool) -> None:
    keys = forest.BACKWARD_KEYS if roomy else forest.SMALL_BACKWARD_KEYS
    kernels = {"forward": forest.FORWARD, "backward_queries": forest.BACKWARD_QUERIES, "backward_keys": keys}
    asked = {
        f"{name} {group} x {size}": partial(of_forest, name, sizes, capability, group, size)
        for name, sizes in kernels.items()
        for group, size in HEADS
    }
    asked |= {f"attend {group} x {size}": partial(of_pages, capability, group, size) for group, size in PAGED_HEADS}
    print(json.dumps({name: call() for name, call in asked.items() if wanted in name}))


if __name__ == "__main__":
    main(int(sys.argv[1]), "".join(sys.argv[3:]), roomy=sys.argv[2] == "roomy")
