"""The key of the server. There is always one, on loopback too: other users of this machine are not trusted.

It is given (`--api-key`), set (`SARTOR_API_KEY`), or made on the first start and kept in a file that only its owner
can read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sartor import durable
from sartor.errors import UserError

VARIABLE = "SARTOR_API_KEY"


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and where it came from: `--api-key`, `SARTOR_API_KEY`, or the path of a file."""

    text: str = field(repr=False)
    origin: str

    def matches(self, given: str) -> bool:
        """Whether the given text is this key, in a time that does not depend on either."""
        return hmac.compare_digest(_digest(given), _digest(self.text))


def find_key(given: str | None, environment: Mapping[str, str]) -> Key:
    """The key to serve with; made and stored if none is given, set or stored.

    Raises:
        UserError: the key cannot be sent in a header, or kept, or its file can be read by others.
    """
    if given is not None:
        return _usable(Key(given, "--api-key"))
    if VARIABLE in environment:
        return _usable(Key(environment[VARIABLE], VARIABLE))
    try:
        path = config_dir(environment) / "keys" / "serve"
        with durable.exclusive(path.parent / "lock"):  # two first starts at once must agree on one key
            path.parent.chmod(0o700)
            if not path.exists():
                durable.atomic_write(path, generate() + "\n")
                path.chmod(0o600)
            return _usable(_stored(path))
    except (OSError, RuntimeError) as error:  # the latter from `Path.home`, where nobody knows it
        raise UserError(
            f"there is no place to keep the key: {error}", hint=f"give --api-key, or set {VARIABLE} or SARTOR_HOME"
        ) from error


def config_dir(environment: Mapping[str, str]) -> Path:
    """Where settings are kept: `$SARTOR_HOME`, else `$XDG_CONFIG_HOME/sartor`, else `~/.config/sartor`."""
    if environment.get("SARTOR_HOME"):
        return Path(environment["SARTOR_HOME"])
    if environment.get("XDG_CONFIG_HOME"):
        return Path(environment["XDG_CONFIG_HOME"]) / "sartor"
    return Path.home() / ".config" / "sartor"


def generate() -> str:
    """A new key, `sk-sartor-<id>-<secret>`, with 192 random bits: too many to guess, so no slow hash is needed."""
    return f"sk-sartor-{secrets.token_hex(4)}-{secrets.token_hex(24)}"


def _stored(path: Path) -> Key:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UserError(
            f"the key file {path} can be read by others (mode {mode:04o})",
            hint=f"delete it, and the next start makes a new key; or `chmod 600 {path}` if nobody has seen it",
        )
    return Key(path.read_text(encoding="utf-8").strip(), str(path))


def _usable(key: Key) -> Key:
    if not key.text or not all("!" <= character <= "~" for character in key.text):
        raise UserError(
            f"the key from {key.origin} is empty, or has a space or a character outside ASCII",
            hint="use letters, digits and punctuation; without any key given, a good one is made for you",
        )
    return key


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
