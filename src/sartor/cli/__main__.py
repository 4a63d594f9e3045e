"""`python -m sartor.cli`."""

from __future__ import annotations

from sartor.cli import main

main()
