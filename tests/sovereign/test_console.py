"""What people see of progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign import __version__
from sovereign.cli.console import describe, lines, say, visible
from sovereign.runner import StageEvent


def test_numbers_that_people_watch_are_shown() -> None:
    metrics = {"loss": 1.23456, "tokens_per_s": 12345.6, "seconds_left": 61.4, "other": 3}
    event = StageEvent("train", "training", 1, 2, "steps", metrics)
    assert describe(event) == "training loss 1.235 12,346 tokens/s 61 s left"


def test_a_receipts_tables_are_left_out() -> None:
    assert describe(StageEvent("evaluate", "done", 1, 1, "", {"bits_per_byte": {"en": 1.0}})) == "done"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("\x1b]0;title\x07\r\x9b2J\x7f", r"\x1b]0;title\x07\r\x9b2J\x7f"),
        ("Musée\u202eenocni\u2066\u061c", r"Musée\u202eenocni\u2066\u061c"),
        ("a\udcff\u2028b\U000e0041\nc", r"a\udcff\u2028b\U000e0041\nc"),
        ("می\u200cخواهم\t\u06dd ❤\ufe0f", "می\u200cخواهم\t\u06dd ❤\ufe0f"),
    ],
)
def test_a_terminal_obeys_no_data(data: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(data) == shown
    lines(data, [(data, "1")])
    assert capsys.readouterr().out == f"{shown}\n  {shown}  1\n"
    lines("t", [("a", data)])
    assert capsys.readouterr().out == "t\n  a  " + shown.replace(r"\nc", "\n     c") + "\n"


def test_a_message_keeps_its_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: a\x1b[2J\n  hint: b\r\x00")
    assert capsys.readouterr().err == "error: a\\x1b[2J\n  hint: b\\r\\x00\n"


def test_a_long_name_moves_no_other_value(capsys: pytest.CaptureFixture[str]) -> None:
    lines("t", [("a", "1"), ("b" * 100, "2"), ("c" * 10_000, "3")])
    assert capsys.readouterr().out == f"t\n  a{' ' * 61}1\n  {'b' * 100}  2\n  {'c' * 299}…  3\n"


_UNREAD = """
import threading
from sovereign.cli.console import Board, say
with Board() as board, board.task("train"):
    thread = threading.Thread(target=board.update, args=("train", "from a thread of the engine"))
    thread.start()
    thread.join()
    say("more")
print("the work is done")
"""


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    """`sovereign deploy 2>&1 | head` ended the thread that followed the engine, and waited for it for ever."""
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([sys.executable, "-c", _UNREAD], stdout=subprocess.PIPE, stderr=writer, text=True) as process:
        os.close(writer)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "the work is done\n")


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


def sovereign(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sovereign.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_k12_the_version_is_told() -> None:
    assert sovereign("--version").stdout == f"sovereign {__version__}\n"
    found = json.loads(sovereign("version", "--json").stdout)
    assert found["version"] == __version__ and found["programs"]["pulumi"] and "runtime" in found
    assert sovereign("version").stdout.startswith(f"sovereign {__version__}\n")


def test_k12_a_shell_can_complete() -> None:
    assert "--install-completion" in sovereign("--help").stdout


@pytest.mark.parametrize("name", ["my site", "it's", 'a"b', "a\nb", "a,b", "a:b", "ø"])
def test_k12_init_refuses_a_path_that_the_node_cannot_use(name: str, tmp_path: Path) -> None:
    done = sovereign("init", str(tmp_path / name), "--profile", "ci")
    assert done.returncode == 1 and "a path that the node cannot use" in done.stderr
    assert not (tmp_path / name).exists()


def test_k12_init_takes_any_path_for_an_existing_cluster(tmp_path: Path) -> None:
    assert sovereign("init", str(tmp_path / "my site"), "--profile", "site").returncode == 0


def test_k8_init_in_a_folder_that_takes_no_files_is_an_error(tmp_path: Path) -> None:
    for folder, words in (
        (Path("/proc/site"), "No such file or directory: /proc/site"),
        (tmp_path / "file" / "site", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        (tmp_path / "file").touch()
        done = sovereign("init", str(folder), "--profile", "site")
        assert done.returncode == 1 and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
