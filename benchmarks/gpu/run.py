"""Runs the sections one after the other, each in a process of its own with a deadline, and keeps what they measured.

    python3 -m benchmarks.gpu.run --out DIR [--tiny] [--limit SECONDS] [--only SECTION …]

gpu.json is written after each section. A section that fails or takes too long is recorded, and the next one runs. The
exit code is 0 where every section was measured, 1 where one was not, 2 where gpu.json could not be completed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.sections import measure

LIMIT_S = 450.0
"""For all sections; the machine is lent for ten minutes a command, and imports and transfers need some."""
DEADLINES_S = {
    "machine": 45.0,
    "train": 110.0,
    "plain": 110.0,
    "masked": 90.0,
    "loss": 60.0,
    "resume": 90.0,
    "fault": 60.0,
    "cudnn": 90.0,
}
"""Seconds, by section, in this order: what matters most comes first."""
_TAIL = 2000


def run_section(name: str, *, tiny: bool, folder: Path, deadline_s: float) -> dict[str, Any]:
    """What the section measured, or why it did not."""
    answer, log = folder / f"{name}.json", folder / f"{name}.log"
    process = multiprocessing.get_context("forkserver").Process(target=measure, args=(name, answer, log, tiny))
    start = time.monotonic()
    process.start()
    try:
        process.join(deadline_s)
        code = process.exitcode
    finally:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # compilers that it started end with it
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    seconds = round(time.monotonic() - start, 1)
    text = log.read_text(errors="replace")[-_TAIL:] if log.exists() else ""
    measured: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
    if name == "fault":  # its process must fail: how it does is what is measured
        return {"status": "measured" if code else "failed", "seconds": seconds, "exit_code": code, "output": text}
    if code == 0 and measured:
        return {"status": "measured", "seconds": seconds, **measured}
    status = "too slow" if code is None else "failed"
    return {"status": status, "seconds": seconds, "exit_code": code, "output": text, **measured}


def compared(sections: dict[str, Any]) -> dict[str, Any]:
    """Figures of several sections."""

    def speed(name: str) -> float | None:
        value = sections.get(name, {}).get("tokens_per_s")
        return float(value) if value else None

    def ratio(one: str, other: str) -> float | None:
        first, second = speed(one), speed(other)
        return round(first / second, 4) if first and second else None

    train = sections.get("train", {})
    return {
        "tflops": train.get("tflops"),
        "mfu": train.get("mfu"),
        "goal_tflops": 600,
        "against_plain_loop": ratio("train", "plain"),
        "masking_costs": ratio("masked", "train"),
        "cudnn_attention": ratio("cudnn", "train"),
        "peak_of_plan": train.get("peak_of_plan"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The benchmark's process."""
    parser = argparse.ArgumentParser(description="Measure training on one GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--tiny", action="store_true", help="small enough for CPU: shows that everything runs")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for all sections")
    parser.add_argument("--only", nargs="+", choices=DEADLINES_S, default=list(DEADLINES_S))
    chosen = parser.parse_args(arguments)
    result = chosen.out.resolve() / "gpu.json"
    if chosen.tiny:  # imports take longer than all else; a process that uses a GPU must import for itself
        os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2"}
        multiprocessing.get_context("forkserver").set_forkserver_preload(["training.train", "training.session"])
    started, sections = time.monotonic(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in DEADLINES_S if name in chosen.only):
            left_s = chosen.limit - (time.monotonic() - started)
            if left_s < 5:
                sections[name] = {"status": "no time left"}
            else:
                deadline_s = min(DEADLINES_S[name], left_s)
                sections[name] = run_section(name, tiny=chosen.tiny, folder=Path(folder), deadline_s=deadline_s)
            document = {
                "tiny": chosen.tiny,
                "seconds": round(time.monotonic() - started, 1),
                "compared": compared(sections),
                "sections": sections,
            }
            part = result.with_suffix(".part")
            part.write_text(json.dumps(document, indent=1) + "\n")
            part.replace(result)
            told = {key: sections[name].get(key) for key in ("status", "seconds", "tokens_per_s", "tflops")}
            sys.stdout.write(json.dumps({"section": name} | told) + "\n")
    sys.stdout.write(json.dumps(document["compared"]) + "\n")
    return 0 if all(one["status"] == "measured" for one in sections.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
