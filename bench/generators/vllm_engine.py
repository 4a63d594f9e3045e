"""vLLM's CPU build, offline, with its prefix cache on: all prompts at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from common import measure, read_job

os.environ["VLLM_CPU_KVCACHE_SPACE"] = "4"  # GiB
os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, whose memory is measured

from vllm import LLM, SamplingParams


def main() -> None:
    job = read_job()
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{job.threads - 1}"
    llm = LLM(job.model, dtype=job.dtype, max_model_len=4096, enable_prefix_caching=True, disable_log_stats=True)

    def answer(prompts: Sequence[Sequence[int]], adapters: Sequence[str | None], new_tokens: int) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [list(found.outputs[0].token_ids) for found in llm.generate(asked, params, use_tqdm=False)]

    measure(job, answer)


if __name__ == "__main__":
    main()
