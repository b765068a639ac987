"""Fetches the packages that a bare GPU machine lacks, for a machine without a network.

    python3 benchmarks/gpu/wheels.py FOLDER

Versions are those of requirements/lock.txt; 60 MB at most in all. DeepSpeed publishes no wheel, so its own is built
here, without compiled operators. Needs pip and a network.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CARRIED = (
    "annotated-types",
    "deepspeed",
    "hjson",
    "pydantic",
    "pydantic-core",
    "rfc8785",
    "transformers",
    "typing-extensions",
    "typing-inspection",
)
EXPECTED = (
    *("accelerate", "certifi", "charset-normalizer", "cloudpickle", "einops", "filelock", "fsspec", "h11", "hf-xet"),
    *("huggingface-hub", "idna", "jinja2", "markupsafe", "mpmath", "msgpack", "networkx", "ninja", "numpy"),
    *("nvidia-ml-py", "packaging", "pillow", "protobuf", "psutil", "py-cpuinfo", "pyyaml", "regex", "requests"),
    *("safetensors", "setuptools", "sympy", "tokenizers", "torch", "tqdm", "triton", "typer", "urllib3"),
)
"""What the machine must have beside; `anyio`, `httpx` and the like are imported only where they are there."""
MOST_BYTES = 60_000_000
_PYTHON = "3.12"
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]
_LOCK = Path(__file__).resolve().parents[2] / "requirements" / "lock.txt"


def locked() -> Iterator[str]:
    """`name==version` of each package that is carried."""
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^ \\;]+)", _LOCK.read_text(), re.MULTILINE))
    yield from (f"{name}=={versions[name]}" for name in CARRIED)


def main() -> None:
    """Fill the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    source = next(one for one in locked() if one.startswith("deepspeed=="))
    ready = [one for one in locked() if one != source]
    target = ["--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp"]
    target += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, "download", "-q", "--no-deps", *target, "-d", folder, *ready], check=True)
    environment = os.environ | {"DS_BUILD_OPS": "0"}
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", folder, source], env=environment, check=True)
    total = sum(path.stat().st_size for path in folder.glob("*.whl"))
    sys.stdout.write(f"{len(CARRIED)} packages, {total / 1e6:.1f} MB in {folder}\n")
    if total > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
