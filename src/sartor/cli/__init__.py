"""The command line: one command per verb. Parse, call, print. Data goes to stdout, talk to stderr.

Exit codes: 0 done · 1 the check or the proof says no · 2 the user's mistake · 3 ours or the machine's ·
130 and 143 stopped by Ctrl-C and by SIGTERM, the work saved.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from sartor import __version__
from sartor.cli import data, looking, verbs
from sartor.cli.common import talk
from sartor.doctor import NEEDED
from sartor.errors import MachineError, SartorError

app = typer.Typer(
    name="sartor",
    help="Sartor tailors a language model to your work, and proves that it fits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(verbs.app)
app.add_typer(looking.app)
app.add_typer(data.app)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sartor {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _stop(error: SartorError) -> NoReturn:
    talk.print(f"[bold red]error[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
    talk.print(f"  [bold]→[/bold] {escape(error.hint)}", highlight=False, soft_wrap=True)
    sys.exit(error.exit_code)


def main() -> None:
    """The entry point: runs a command and turns errors into words and exit codes."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # deprecations between libraries are for us, not for users
    try:
        app()
    except SartorError as error:
        _stop(error)
    except (PermissionError, NotADirectoryError) as error:
        hint = "name a place that you may use; SARTOR_CACHE and HF_HOME say where models are kept"
        _stop(MachineError(f"{error.filename}: {error.strerror}", hint=hint))
    except KeyboardInterrupt:
        talk.print("stopped")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if isinstance(error, ModuleNotFoundError) and error.name in NEEDED:
            _stop(MachineError(f"{error.name} is not installed", hint=NEEDED[error.name]))
        # Ours, so the traceback belongs to the report of it.
        traceback.print_exc()
        talk.print(
            "[bold red]this is a fault of sartor[/bold red]: please report it with the lines above", highlight=False
        )
        sys.exit(3)
