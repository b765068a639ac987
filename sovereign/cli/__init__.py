"""The command line `sovereign`. Errors of the kit are shown in a few lines with exit code 1; anything else is a bug."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import NoReturn

from sovereign.errors import SovereignError
from sovereign.proxies import set_aside

_INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it."""


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """What other threads meet from now on, such as closed pipes, is no news."""
    threading.excepthook = lambda _: None
    warnings.simplefilter("ignore")
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; never returns."""
    from typer import Abort, TyperException

    from sovereign.cli.app import app
    from sovereign.cli.console import say
    from sovereign.runner import StageStopped

    set_aside()
    signal.signal(signal.SIGINT, _interrupt)
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
    except OSError as error:
        if error.filename is None:
            raise
        say(f"error: {error.strerror}: {error.filename}", "red")  # a folder of another user, a full disk
        sys.exit(1)
    except TyperException as error:
        if message := error.format_message():  # none where the help was shown
            command = getattr(error, "ctx", None)
            say(f"error: {message}" + (f"\n  hint: {command.command_path} --help" if command else ""), "red")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        say("stopped; run the same command to resume")
    sys.exit(code if isinstance(code, int) else 0)
