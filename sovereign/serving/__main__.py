"""Command line of the model server's pod. Imports lazily: the probe must start in a fraction of a second."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sovereign.errors import SovereignError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (an error of the kit, on stderr) or 2 (wrong arguments)."""
    parser = argparse.ArgumentParser(prog="python -m sovereign.serving", description="Parts of the model server's pod.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch a registered model into the server's hub cache")
    fetch.add_argument("--store", required=True, help="file:///folder or s3://")
    fetch.add_argument("--prefix", required=True, help="store key of the model's folder, with a slash at its end")
    fetch.add_argument("--digest", required=True, help="the model's digest as registered")
    fetch.add_argument("--into", type=Path, required=True, help="the server's HF_HOME")
    fetch.add_argument("--name", required=True, help="name under which the model is served, e.g. sovereign/demo")
    probe = commands.add_parser("probe", help="succeed when the server really generates a token")
    probe.add_argument("--url", required=True)
    probe.add_argument("--model", required=True)
    probe.add_argument("--timeout", type=float, default=10.0, help="seconds")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            from sovereign.serving.fetch import fetch_model
            from sovereign.store import open_store

            fetch_model(open_store(options.store), options.prefix, options.digest, options.into, options.name)
        else:
            from sovereign.serving.client import generate_one_token

            generate_one_token(options.url, options.model, timeout_s=options.timeout)
    except SovereignError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
