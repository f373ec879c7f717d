"""Errors as one message and an exit code."""

from __future__ import annotations

import sys
import traceback

import click

from edgeprune.errors import EdgepruneError

USAGE = 2
BUG = 4
INTERRUPTED = 130


def told(command: click.Command) -> None:
    """Run the command; exit with the code of whatever stopped it."""
    verbose = any(argument in ("-v", "--verbose") for argument in sys.argv[1:])
    try:
        status = command.main(prog_name="edgeprune", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(
            _say(
                "interrupted; what was finished stays, and the same command goes on from there.", INTERRUPTED
            )
        )
    except KeyboardInterrupt:
        sys.exit(
            _say(
                "interrupted; what was finished stays, and the same command goes on from there.", INTERRUPTED
            )
        )
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(USAGE)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" Try `{context.command_path} --help`." if context is not None else ""
        sys.exit(_say(f"{error.format_message().rstrip('.')}.{hint}", error.exit_code))
    except EdgepruneError as error:
        if verbose:
            traceback.print_exc()
        sys.exit(_say(str(error), error.exit_code))
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if verbose:
            traceback.print_exc()
        where = f"{str(error.filename)[:200]}: " if error.filename else ""
        sys.exit(_say(f"{where}{error.strerror or error}; check the path, its rights and the disk.", USAGE))
    except MemoryError as error:
        if verbose:
            traceback.print_exc()
        text = f"not enough memory ({error}); check the sizes of inputs and samples, or use a larger machine."
        sys.exit(_say(text, USAGE))
    except Exception as error:  # the last resort: a bug, told in one line
        if verbose:
            traceback.print_exc()
        text = f"unexpected {type(error).__name__}: {error}. This is a bug in edgeprune: please report it"
        sys.exit(_say(f"{text} (-v shows the traceback).", BUG))
    sys.exit(status if isinstance(status, int) else 0)


def _say(text: str, code: int) -> int:
    from edgeprune.cli.console import colours

    click.echo(f"{click.style('error:', fg='red', bold=True)} {text}", err=True, color=colours())
    return code
