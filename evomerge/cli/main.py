"""The command line: collects the commands and turns exceptions into exit codes."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from evomerge.cli import check, evaluate, export, init, merge, methods, search, status
from evomerge.errors import CandidateError, UserError
from evomerge.version import __version__

__all__ = ["app", "main"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

app = typer.Typer(
    name="evomerge",
    help="Searches for the best merge of several fine-tuned language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(search.command)
app.command("status")(status.command)
app.command("export")(export.command)
app.command("merge")(merge.command)
app.command("eval")(evaluate.command)
app.command("check")(check.command)
app.command("methods")(methods.command)
app.command("init")(init.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"evomerge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Searches for the best merge of several fine-tuned language models."""
    del version


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 1 a bug, with its traceback; 2 a user error, with one message; 3 the winner is
    not shown to be better (``--fail-unless-better``); 130 stopped by Ctrl-C or SIGTERM, to be resumed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forks after threads would warn at each task
    try:
        app(standalone_mode=True)
    except UserError as exception:
        print(f"Error: {exception}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except CandidateError as exception:
        print(f"Error: the model cannot be scored: {exception.reason}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OSError as exception:
        if exception.errno not in _DISK:
            raise
        # Places that write files raise an OutputError; this is for temporary files and standard output.
        place = f"{exception.filename}: " if exception.filename else ""
        print(f"Error: {place}cannot be written ({exception.strerror})", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
