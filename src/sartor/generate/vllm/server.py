"""Where a vLLM server is, and one of our own: `vllm serve` on loopback, behind a random key, until it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx2

from sartor.errors import MachineError, UserError

START_SECONDS = 900.0  # loading weights and compiling: a minute on a small model, many on a large one
STOP_SECONDS = 20.0
SERVED_BASE = "sartor-base"  # what our own server calls the base: no run is named so
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes

_ELSEWHERE = "install vllm in an environment of its own and put its bin/ on PATH, or name a server in SARTOR_VLLM_URL"


@dataclass(frozen=True, slots=True)
class Address:
    """A server without the `/v1`, and its key, which no message shows."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def read(cls, url: str, key: str) -> Address:
        """As people write it: with `/v1` or without.

        Raises:
            UserError: this is no address of a server, or no key that a header can hold.
        """
        key = key.strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                "SARTOR_VLLM_KEY has letters that no key has", hint="it is what `--api-key` gave the server"
            )
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            right = False
        if not right:
            raise UserError(f"{url!r} is not the address of a server", hint="for example http://127.0.0.1:8000")
        return cls(url.rstrip("/").removesuffix("/v1"), key)


class Server:
    """A running `vllm serve` of ours. It is stopped at the latest when Python ends."""

    def __init__(self, address: Address, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self.address, self.process, self.log = address, process, log
        self._stop = weakref.finalize(self, _stop, process)  # runs once: later its number may be another's

    def stop(self) -> None:
        """End it with all its workers: a polite signal first. Stopping twice is no error."""
        self._stop()


def start_server(
    base: Path, adapters: Mapping[str, Path], *, dtype: str, num_threads: int | None, patience: float = START_SECONDS
) -> Server:
    """Start vLLM on a model folder with PEFT adapters by name, and wait until it is healthy.

    Raises:
        UserError: there is no `vllm` on this machine.
        MachineError: it ended instead, or is not ready after `patience` seconds; with the end of its log.
    """
    program = shutil.which("vllm")
    if program is None:
        raise UserError("there is no `vllm` on PATH", hint=_ELSEWHERE)
    port = _free_port()
    address = Address(f"http://127.0.0.1:{port}", secrets.token_urlsafe())
    environment = {
        **os.environ,
        "VLLM_API_KEY": address.key,  # not as an argument: everybody on a machine sees those
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
    process = subprocess.Popen(
        [program, *arguments(base, adapters, dtype=dtype, port=port)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that its workers can be stopped with it
    )
    server = Server(address, process, log)
    try:
        _wait(server, patience)
    except BaseException:
        server.stop()
        raise
    return server


def arguments(base: Path, adapters: Mapping[str, Path], *, dtype: str, port: int) -> list[str]:
    """The command line of `vllm`."""
    line = ["serve", str(base.resolve()), "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    line += ["--served-model-name", SERVED_BASE, "--generation-config", "vllm"]
    if adapters:
        modules = [json.dumps({"name": name, "path": str(path.resolve())}) for name, path in adapters.items()]
        line += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(_rank(adapters.values()))]
        line += ["--lora-modules", *modules]
    return line


def _rank(adapters: Iterable[Path]) -> int:
    """The smallest rank that vLLM can be started with and that holds all adapters.

    Raises:
        UserError: one is no LoRA adapter, or of a rank that vLLM does not take.
    """
    ranks = []
    for folder in adapters:
        try:
            ranks.append(int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no LoRA adapter in PEFT form, and vLLM serves no other",
                hint="serve it with the engine `sartor`",
            ) from error
    fitting = [rank for rank in RANKS if rank >= max(ranks)]
    if not fitting:
        raise UserError(
            f"an adapter has rank {max(ranks)}, and vLLM takes at most {RANKS[-1]}",
            hint="serve it with the engine `sartor`",
        )
    return fitting[0]


def _wait(server: Server, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        code = server.process.poll()
        if code is not None:
            raise MachineError(f"vLLM ended with code {code} instead of serving:\n{_tail(server.log)}", hint=_ELSEWHERE)
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{server.address.url}/health", timeout=5.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise MachineError(
        f"vLLM is not ready after {patience:g} s:\n{_tail(server.log)}",
        hint="start it by hand, see what it waits for, and name it in SARTOR_VLLM_URL",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):  # the second for workers too that outlive their leader
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _tail(log: IO[bytes]) -> str:
    """The last lines of a log, without what comes before them."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - 2000))
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-12:])


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
