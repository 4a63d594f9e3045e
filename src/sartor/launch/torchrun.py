"""Train in several processes of this machine, by torchrun: `launch` starts them, and each of them runs this file.

What comes before training is done by one process, once; the ranks read it from the run. Rank 0 holds the run's lock,
writes its files and talks; the others compute. An error of any rank comes back whole, in the file that torchrun gives
to each, and a rank that dies takes the others with it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sartor import durable
from sartor.backends import estimate
from sartor.backends.estimate import CPU, TRAINING
from sartor.backends.ranks import here, refuse_many
from sartor.errors import MachineError, Refused, SartorError, UserError
from sartor.explain import planned_job
from sartor.hardware import Hardware, environment_kept, look, prepare_environment, release_memory
from sartor.hub import Shape
from sartor.launch.signals import handled, requests
from sartor.plan import Plan, Recompute
from sartor.planner import room_of
from sartor.sinks.console import ConsoleSink
from sartor.sizing import held
from sartor.stages import Bench, follow, is_done, run_until
from sartor.store import Run
from sartor.types import Json

BEFORE = ("check", "baseline", "plan")
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
STOPPED = 128 + signal.SIGTERM
#: torchrun would kill on these before a checkpoint is written; only a closed terminal is left to it.
SIGNALS_OF_TORCHRUN = "SIGHUP"
PASSED_ON = signal.SIGUSR1


def launch(bench: Bench, num_ranks: int) -> int:
    """Train a planned run, if that is not done yet; 0, or the exit code of ranks that were asked to stop.

    Raises:
        UserError: the plan's backend computes in one process.
        MachineError: there is no GPU, and the ranks together need more memory than there is.
        SartorError: what a rank could not do, as that rank said it.
    """
    import torch

    run = bench.run
    if is_done(bench, "train"):
        return 0
    refuse_many(bench.plan.backend, num_ranks)
    release_memory()  # the GPU's too, which a rank needs: this process may have answered and measured on it
    machine = look(run.folder)
    if not torch.cuda.is_available():
        refuse_if_too_many(bench.plan, bench.shape, num_ranks, machine)
    threads = str(max(1, machine.num_cores // num_ranks))
    with (
        _environment({"OMP_NUM_THREADS": threads, "LOGLEVEL": "CRITICAL"}),
        requests(lambda number: _pass_on(run), signal.SIGTERM, signal.SIGINT) as asked,
    ):
        from torch.distributed import run as torchrun  # here, because it reads its LOGLEVEL when it is imported
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        options = ["--standalone", "--nproc-per-node", str(num_ranks), "--signals-to-handle", SIGNALS_OF_TORCHRUN]
        arguments = torchrun.parse_args(  # type: ignore[no-untyped-call]
            [*options, "--module", "sartor.launch.torchrun", str(run.folder.resolve())]
        )
        try:
            torchrun.run(arguments)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            failures = [
                (failure.exitcode, rank, failure.message, failure.error_file_data)
                for rank, failure in sorted(error.failures.items(), key=lambda item: item[1].timestamp)
            ]
            codes = {code for code, *_ in failures}
            if codes <= {STOPPED, -signal.SIGTERM} and (asked or STOPPED in codes):  # `sartor stop` asks rank 0 alone
                return 128 + (asked[0] if asked else signal.SIGTERM)
            raise told(failures) from None
    return 0


def require_gpus(num_ranks: int) -> None:
    """Say so before anything is computed.

    Raises:
        UserError: there are GPUs, but fewer than ranks.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < num_ranks:
        raise UserError(
            f"{num_ranks} ranks want a GPU each, and there are {torch.cuda.device_count()}",
            hint="give --ranks as many as there are GPUs",
        )


def refuse_if_too_many(plan: Plan, shape: Shape, num_ranks: int, machine: Hardware) -> None:
    """Stop before ranks on a CPU crowd each other out: the plan is for one process that has the machine for itself.

    Raises:
        MachineError: together they need more memory than there is.
    """
    room = room_of(machine).num_bytes
    needed = held_by(plan, shape, num_ranks, machine.memory_bytes)
    if needed <= room:
        return
    fewer = range(num_ranks - 1, 1, -1)
    most = next((number for number in fewer if held_by(plan, shape, number, machine.memory_bytes) <= room), 1)
    raise MachineError(
        f"{num_ranks} ranks need {needed / 2**30:.1f} GiB together; this machine has "
        f"{machine.memory_bytes / 2**30:.1f} GiB, of which {room / 2**30:.1f} can be used",
        hint=f"give --ranks {most}; one process uses all cores as well",
    )


def held_by(plan: Plan, shape: Shape, num_ranks: int, memory_bytes: int) -> int:
    """Bytes that the ranks of a machine without a GPU hold together at their fullest moment.

    Each as much as one process, but the pages of one file and the tenth for kept activations are there once. Ranks that
    share the base out compute by transformers' layers, every beginning again; each still loads it whole, and gathers
    all that a save writes.
    """
    phases = plan.estimate.memory
    job = held(replace(planned_job(plan, shape), devices=num_ranks), memory_bytes / num_ranks)
    if job.shards > 1:
        again: Recompute = "none" if plan.recompute == "none" else "layer"
        tokens = min(plan.micro_tokens, plan.batch_size * plan.max_length) + job.virtual
        parts = estimate.memory(replace(job, micro_tokens=tokens, recompute=again), CPU)
        disk = {name: parts[name].model_copy(update={"disk": phases[name].disk}) for name in ("save", "resume")}
        phases = parts | disk | {"load": phases["load"]}
    each = [phases[name] for name in TRAINING]
    return max(num_ranks * memory.total - (num_ranks - 1) * (memory.mapped + memory.kept) for memory in each)


def told(failures: list[tuple[int, int, str, Json]]) -> SartorError:
    """The error of a set of ranks, each `(exit code, rank, message, its error file)`, the first to fail first.

    A rank that was killed is the cause of what the others say; so is one with an error of its own.
    """
    killed = [(code, rank) for code, rank, *_ in failures if code < 0 and code != -signal.SIGTERM]
    if killed:
        code, rank = killed[0]
        return MachineError(
            f"rank {rank} was killed by {signal.Signals(-code).name}; the others were stopped",
            hint="too little memory is the usual cause; start the same command again: it goes on from its checkpoint",
        )
    for code, _, _, file in failures:
        message = file.get("message")
        if isinstance(message, dict) and "hint" in message:
            kind: type[SartorError] = {1: Refused, 2: UserError}.get(code, MachineError)
            return kind(message["message"], hint=message["hint"])
    code, rank, message, _ = failures[0]
    return MachineError(f"rank {rank} ended with exit code {code}: {message}", hint="its words stand above")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for the ranks, where the user has set none, and as before for what this process does afterwards."""
    with environment_kept(values):
        os.environ.update({name: os.environ.get(name, value) for name, value in values.items()})
        yield


def _pass_on(run: Run) -> None:
    """Ask rank 0, which saves and leaves with all others; there may be none yet.

    Not by SIGTERM: who sends that to all processes at once, as systemd and SLURM do, has sent it to rank 0 as well, and
    a second one means to leave at once.
    """
    worker = run.worker()  # read once: 0 is no process but a whole group of them
    if not worker:
        raise KeyboardInterrupt
    os.kill(worker, PASSED_ON)


def work(run: Run) -> int:
    """What one rank does; its exit code."""
    from sartor.backends.fsdp import leave

    prepare_environment()
    bench = Bench(run)

    def stop(number: int, _: object = None) -> None:
        run.stopping = True

    # Ctrl-C reaches all processes of a terminal; the one that started the ranks passes it on.
    with requests(stop, signal.SIGTERM), handled(stop, PASSED_ON), handled(signal.SIG_IGN, signal.SIGINT):
        if here().rank:
            follow(bench)
        else:
            with run.locked(), ConsoleSink(Console(stderr=True)) as sink:
                for event in run_until(bench, "train", without=BEFORE):
                    sink(event)
        leave()
    return STOPPED if run.stopping else 0


def main() -> None:
    """One rank, as torchrun starts it: `python -m sartor.launch.torchrun RUN`. Its error goes into a file, not here."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # as in the command line
    try:
        sys.exit(work(Run(Path(sys.argv[1]))))
    except SartorError as error:
        _report(error.message if error.where is None else str(error), error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:  # noqa: BLE001 - the last line of defence of a process, as in the command line
        traceback.print_exc()
        _report(f"rank {here().rank}: {type(error).__name__}: {error}", "please report it with the lines above")
        sys.exit(MachineError.exit_code)


def _report(message: str, hint: str) -> None:
    """What torchrun reads as a rank's failure, with our hint beside it."""
    path = os.environ.get(ERROR_FILE)
    if path:
        told = {"message": message, "hint": hint, "extraInfo": {"timestamp": int(time.time())}}
        durable.write_json(Path(path), {"message": told})


if __name__ == "__main__":
    main()
