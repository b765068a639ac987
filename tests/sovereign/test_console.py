"""What people see of progress."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sovereign.cli.console import describe
from sovereign.runner import StageEvent


def test_numbers_that_people_watch_are_shown() -> None:
    metrics = {"loss": 1.23456, "tokens_per_s": 12345.6, "seconds_left": 61.4, "other": 3}
    event = StageEvent("train", "training", 1, 2, "steps", metrics)
    assert describe(event) == "training loss 1.235 12,346 tokens/s 61 s left"


def test_a_receipts_tables_are_left_out() -> None:
    assert describe(StageEvent("evaluate", "done", 1, 1, "", {"bits_per_byte": {"en": 1.0}})) == "done"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan"], "error: Missing argument 'PROFILE'.\n  hint: "),
        (["plan", "ci", "--nonsense"], "error: No such option: --nonsense"),
        (["nonsense"], "error: No such command 'nonsense'."),
    ],
)
def test_a_wrong_command_is_told_in_a_few_lines(words: list[str], told: str) -> None:
    command = [sys.executable, "-c", "from sovereign.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(told), done.stderr
