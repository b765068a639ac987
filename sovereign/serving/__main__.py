"""Command line of the model server's pod. Imports lazily: the probe must start in a fraction of a second."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sovereign.errors import SovereignError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 (an error of the kit, on stderr) or 2 (wrong arguments)."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "fetch":
                from sovereign.serving.fetch import fetch_model
                from sovereign.store import open_store

                fetch_model(open_store(options.store), options.prefix, options.digest, options.into)
            case "engine":
                from sovereign.serving.llama import run_llama

                run_llama(options.model, context=options.context, slots=options.slots, port=options.port)
            case "front":
                from sovereign.serving.engine import Engine
                from sovereign.serving.front import run_front
                from sovereign.serving.prompts import Prompts

                prompts = Prompts(options.model_dir, context_length=options.context)
                engine = Engine(options.engine)
                run_front(prompts, engine, options.name, host=options.host, port=options.port)
            case _:
                from sovereign.serving.client import generate_one_token

                generate_one_token(options.url, options.model, timeout_s=options.timeout)
    except SovereignError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sovereign.serving", description="Parts of the model server's pod.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="fetch a folder of a registered model, checked")
    fetch.add_argument("--store", required=True, help="file:///folder or s3://")
    fetch.add_argument("--prefix", required=True, help="store key of the model's folder, with a slash at its end")
    fetch.add_argument("--digest", required=True, help="digest of the folder's files as registered")
    fetch.add_argument("--into", type=Path, required=True, help="where to make the folder, named by the digest")
    engine = commands.add_parser("engine", help="serve a GGUF file with llama.cpp on loopback, to the front")
    engine.add_argument("--model", type=Path, required=True)
    engine.add_argument("--context", type=int, required=True, help="tokens of a prompt and its answer")
    engine.add_argument("--slots", type=int, default=4, help="answers that are computed together")
    engine.add_argument("--port", type=int, required=True)
    front = commands.add_parser("front", help="the API that clients see")
    front.add_argument("--engine", required=True, help="address of the engine")
    front.add_argument("--context", type=int, default=None, help="most tokens of a prompt and its answer")
    front.add_argument("--model-dir", type=Path, required=True, help="tokenizer and configuration of the model")
    front.add_argument("--name", required=True, help="name under which the model is served, e.g. sovereign/demo")
    front.add_argument("--host", default="127.0.0.1")
    front.add_argument("--port", type=int, required=True)
    probe = commands.add_parser("probe", help="succeed when the server really generates a token")
    probe.add_argument("--url", required=True)
    probe.add_argument("--model", required=True)
    probe.add_argument("--timeout", type=float, default=10.0, help="seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
