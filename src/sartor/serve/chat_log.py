"""The log of finished chats whose users agreed: what a next round of training may learn from. Off unless asked for.

A user agrees with a request's `store: true`, the field of OpenAI's API by which a caller lets an answer be kept for
"model distillation or evals": it is off unless sent, every client can send it, and it says what we need to know.
`metadata`, its companion, is kept with the chat; the user's name, address and key are not.
"""

from __future__ import annotations

import datetime
import logging
import threading
from pathlib import Path

from pydantic import ValidationError

from sartor import durable
from sartor.collect.logged import Heading, Logged
from sartor.errors import MachineError, UserError
from sartor.serve.question import messages_of, tools_of
from sartor.serve.wire import ChatRequest

log = logging.getLogger("sartor.serve")

#: OpenAI's bounds on metadata: pairs, and characters of a name and of a value.
_PAIRS, _NAME, _VALUE = 16, 64, 512
_LONGEST_HEADING = 1024
#: Nobody but the server's own user reads what people said.
_MODE = 0o600


class ChatLog:
    """A file with one line a chat. Several threads may write."""

    def __init__(self, path: Path) -> None:
        """Begin a log, or go on with it.

        Raises:
            UserError: the file is there, and is no such log.
            MachineError: it cannot be written.
            OSError: it cannot be read, or is another user's.
        """
        _require_log(path)
        self._path = path
        self._lock = threading.Lock()
        durable.append(path, Heading(started=_now()).model_dump_json())
        path.chmod(_MODE)

    def keep(self, request: ChatRequest, answer: str, finish: str) -> None:
        """Write a finished chat down, if its user agreed. A full disk costs the line, not the answer."""
        if request.store is not True:
            return
        line = Logged(
            time=_now(),
            consent=True,
            model=request.model,
            request=messages_of(request.messages),
            tools=tools_of(request),
            metadata=_bounded(request.metadata),
            answer=answer,
            finish=finish,
        )
        try:
            with self._lock:
                durable.append(self._path, line.model_dump_json())
        except MachineError as error:
            log.error("a chat was not logged: %s", error)


def _require_log(path: Path) -> None:
    """Nothing is appended to a file that holds something else, a recipe perhaps."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = file.readline(_LONGEST_HEADING)
    try:
        if first:
            Heading.model_validate_json(first)
    except ValidationError as error:
        raise UserError(f"{path} is there and is no log of chats", hint="name another file with --log-chats") from error


def _bounded(metadata: object) -> dict[str, str]:
    """Metadata as OpenAI defines it; anything else is nobody's agreement to keep it."""
    if not isinstance(metadata, dict) or len(metadata) > _PAIRS:
        return {}
    pairs = {name: value for name, value in metadata.items() if isinstance(name, str) and isinstance(value, str)}
    return {name: value for name, value in pairs.items() if len(name) <= _NAME and len(value) <= _VALUE}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
