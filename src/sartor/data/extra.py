"""What the extra `data` brings: imported when it is first used, and named when it is missing."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from sartor.errors import MachineError


@functools.cache
def needs(package: str) -> ModuleType:
    """A library of the extra.

    Raises:
        MachineError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MachineError(f"{package} is not installed", hint="pip install 'sartor[data]'") from error
