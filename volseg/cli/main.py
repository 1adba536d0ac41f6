"""The ``volseg`` group: lazy subcommands, and one place where errors become one line and an exit code."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from typing import Any

import click

from volseg import __version__
from volseg.errors import VolsegError

COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("volseg.cli.infer:infer", "Segment CT or MRI scans (NIfTI, NRRD, MHA, DICOM)."),
    "plan": ("volseg.cli.plan:plan", "Measure a dataset and plan a bundle for it."),
    "train": ("volseg.cli.train:train", "Train a bundle on labelled scans."),
    "preprocess": ("volseg.cli.preprocess:preprocess", "Resample and normalise labelled scans once, for later trainings."),
    "evaluate": ("volseg.cli.evaluate:evaluate", "Compare segmentations with references, and two models with each other."),
    "dicom": ("volseg.cli.dicom:dicom", "List and convert DICOM series."),
    "sample": ("volseg.cli.sample:sample", "Write a synthetic CT or MRI with its ground truth."),
    "bundle": ("volseg.cli.bundle:bundle", "List, describe and check MONAI bundles."),
    "bench": ("volseg.cli.bench:bench", "Time a bundle on this machine, engine by engine."),
}
"""Name -> (where the command lives, its one-line help); the help is here so that listing commands imports none of them."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand's module only when that subcommand runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order a new user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their one-line help without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="volseg")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def volseg(ctx: click.Context, debug: bool) -> None:
    """Segment CT and MRI scans, and train the models that do it, as plain MONAI bundles.

    \b
    Examples:
      volseg sample ct sample_ct              make a synthetic CT (DICOM and NIfTI) to try things on
      volseg infer scan.nii.gz -o out         segment a CT with the default bundle, ct_tumor
      volseg train bundles/ct_tumor --data DATASET --fold 0
      volseg evaluate out/ references/
    """
    ctx.obj = {"debug": debug}


def main(args: list[str] | None = None) -> None:
    """Run the command line; exit 0 when done, 2 on bad input or usage, 1 on anything else.

    Parameters
    ----------
    args : list of str, optional
        Arguments without the program name; ``sys.argv[1:]`` when omitted.
    """
    given = sys.argv[1:] if args is None else args
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    try:
        result: Any = volseg.main(args=given, prog_name="volseg", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("stopped", 130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _fail(f"{error.format_message()} (see `{context.command_path if context else 'volseg'} --help`)", error.exit_code)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except VolsegError as error:
        if debug:
            raise
        for problem in getattr(error, "problems", ()):
            click.echo(f"  - {' '.join(problem.split())}", err=True)
        _fail(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        _fail(_os_error(error), 1)
    except MemoryError as error:
        if debug:
            raise
        _fail(f"memory ran out ({error or 'an allocation failed'}); close other programs or use a smaller scan; `volseg infer` keeps within what --max-memory allows", 1)
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        _fail(f"{type(error).__name__}: {text} (run again with --debug for the traceback)", 1)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the device; free some space or choose another output folder with -o"
    return f"{where}{error.strerror or error}"


def _fail(message: str, code: int) -> None:
    click.echo(f"volseg: error: {' '.join(message.split())}", err=True)
    sys.exit(code)
