"""The command line `sovereign`. Errors of the kit are shown in a few lines with exit code 1; anything else is a bug."""

from __future__ import annotations

import os
import sys

from sovereign.errors import SovereignError


def main() -> None:
    """Run the command line; never returns."""
    from typer import Abort, TyperException

    from sovereign.cli.app import app
    from sovereign.cli.console import say
    from sovereign.runner import StageStopped

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if os.environ.pop("KUBECONFIG", None):
        say("warning: KUBECONFIG is ignored; the target is the one that the profile names", "yellow")
    try:
        code = app(standalone_mode=False)
    except StageStopped as error:
        say(str(error))
        sys.exit(error.exit_code)
    except SovereignError as error:
        say(f"error: {error}", "red")
        sys.exit(1)
    except TyperException as error:
        if message := error.format_message():  # none where the help was shown
            command = getattr(error, "ctx", None)
            say(f"error: {message}" + (f"\n  hint: {command.command_path} --help" if command else ""), "red")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Abort):
        say("stopped; the same command goes on where it stopped")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
