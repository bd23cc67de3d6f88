"""The commands. They only translate: options into calls, errors into exit codes. Alone import typer.

Exit codes: 0 done, 1 the input or the model cannot be served, 2 wrong usage. Results go to stdout, talk and
progress to stderr. torch is imported by the commands that need it, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from phnnify import __version__
from phnnify.cli import compare, convert, distill, export, hyper, inspect
from phnnify.errors import PhnnifyError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a trained PyTorch network smaller: each dense and convolutional weight becomes a "
    "parameterized hypercomplex one, a sum of Kronecker products with 1/n of the parameters.",
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


for _command in (
    convert.convert, distill.distill, inspect.inspect, compare.compare, export.export, hyper.hyper
):  # fmt: skip
    app.command()(_command)


def main() -> None:
    """Run the command line; errors become one message on stderr and an exit code."""
    try:
        app()
    except PhnnifyError as error:
        _fail(error)
    except Exception as error:
        if os.environ.get("PHNNIFY_TRACEBACK"):
            raise
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            _fail(PhnnifyError("there is not enough memory", hint="fewer --samples, or smaller inputs"))
        text = f"unexpected {type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        _fail(PhnnifyError(text, hint="a fault of phnnify; PHNNIFY_TRACEBACK=1 shows where it happened"))


def _fail(error: PhnnifyError) -> None:
    from phnnify import render

    render.show_error(error)
    sys.exit(2 if isinstance(error, UsageError) else 1)
