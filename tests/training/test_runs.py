"""Records of runs in the store, the commands that read them, and the report."""

from __future__ import annotations

import json
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from lxml.html import document_fromstring
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.cli.runs import _number
from sovereign.cli.summary import Summary, summary_rows
from sovereign.errors import StoreError, TrainingError
from sovereign.plan import plan
from sovereign.profile import load_profile
from sovereign.store import FolderStore, open_store
from training import runs
from training.report import write_report
from training.runs import Run, RunWriter, choose, read_runs, typical
from training.tracking import Record

# Matplotlib's own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FIRST, SECOND = "a1" * 32, "b2" * 32


def write_run(root: Path, profile: Path, digest: str, losses: list[float], status: str, **plan_changes: Any) -> None:
    """A run's record below `root`."""
    resolved = plan(load_profile(profile))
    resolved = resolved.model_copy(update={"recipe": resolved.recipe.model_copy(update=plan_changes)})
    record = Record(root / f"{digest[:4]}.jsonl")
    record.add({"step": 0, "heldout_bits_per_byte": 3.5, "heldout_bits_per_byte/language/en": 3.0})
    for step, loss in enumerate(losses, start=1):
        values = {"loss": loss, "gradient_norm": 1.0, "tokens_per_s": 1000.0, "is_skipped": float(step == 2)}
        record.add({"step": step} | values)
    record.add({"step": len(losses), "heldout_bits_per_byte": 2.5, "heldout_bits_per_byte/language/en": 2.0})
    writer = RunWriter(
        open_store(f"file://{root}"), "tiny", digest, resolved, ["rank 1 is slow"], enabled=True, warn=pytest.fail
    )
    writer.write(status, record, {"steps": len(losses)} if status == "FINISHED" else None)
    path = root / f"models/tiny/runs/{digest[:8]}/run.json"
    started = {"started_at": f"2026-01-01T00:00:{digest[1]}0+00:00"}
    path.write_text(json.dumps(json.loads(path.read_text()) | started))


@pytest.fixture
def site(tmp_path: Path, profile_file: Path) -> Path:
    """A site with two runs."""
    site, data = tmp_path / "site", tmp_path / "site" / "data"
    done = CliRunner().invoke(app, ["init", str(site), "--profile", str(profile_file)])
    assert done.exit_code == 0, done.output
    write_run(data, profile_file, FIRST, [5.0, 4.0, 3.0], "FINISHED")
    write_run(data, profile_file, SECOND, [5.0, 4.5], "KILLED", learning_rate=1e-3)
    return site


def call(*arguments: str) -> str:
    """What a command writes to stdout."""
    done = CliRunner().invoke(app, ["runs", *arguments, "--local"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_list_show_and_compare(site: Path) -> None:
    listed = json.loads(call("list", str(site), "--json"))
    assert [(run["run"], run["status"], run["step"]) for run in listed] == [
        (SECOND, "KILLED", 2),
        (FIRST, "FINISHED", 3),
    ]
    assert (listed[1]["loss"], listed[1]["heldout_bits_per_byte"], listed[1]["num_steps"]) == (3.0, 2.5, 12)
    assert "a1a1a1a1" in call("list", str(site))
    shown = json.loads(call("show", str(site), "a1", "--json"))
    assert shown["summary"] == {"steps": 3} and shown["problems"] == ["rank 1 is slow"]
    assert shown["last"]["heldout_bits_per_byte/language/en"] == 2.0
    assert SECOND in call("show", str(site)), "by default the last run"
    compared = json.loads(call("compare", str(site), "a1", "b2", "--json"))
    assert compared["differs"] == {"recipe.learning_rate": [4e-3, 1e-3]}
    assert compared["last"]["loss"] == [3.0, 4.5]
    assert "recipe.learning_rate" in call("compare", str(site))


class Page(HTMLParser):
    """What a screen reader and a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))


def test_plots_and_a_report_that_needs_nothing_else(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "plots"
    files = [Path(name) for name in json.loads(call("plot", str(site), "--out", str(out), "--json"))]
    names = {path.name for path in files}
    assert {"loss.png", "languages.png", "gradient-norm.png", "speed.png", "report.html"} <= names
    assert "energy.png" not in names, "nothing was measured"
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files if path.suffix == ".png")
    text = (out / "report.html").read_text()
    page = Page(text)
    assert len(page.found["img"]) == len(names) - 1
    for image in page.found["img"]:
        assert str(image["src"]).startswith("data:image/png;base64,") and len(str(image["alt"])) > 20
    loss = next(str(image["alt"]) for image in page.found["img"] if "Training loss" in str(image["alt"]))
    assert "a1a1a1a1: 5 at step 1, 3 at step 3, lowest 3, highest 5" in loss
    assert page.found["html"] == [{"lang": "en"}] and len(page.found["table"]) == len(names)
    assert all(cell.get("scope") in {"row", "col"} for cell in page.found["th"])
    assert "://" not in text and not {"script", "link"} & set(page.found)
    assert '<th scope="row">3</th><td></td><td>3</td>' in text, "the table holds the numbers"


def test_runs_are_named_by_their_first_digits(site: Path) -> None:
    found = read_runs(open_store(f"file://{site / 'data'}"), "tiny")
    assert [run.run for run in choose(found, ["a1", "b2"])] == [FIRST, SECOND]
    with pytest.raises(TrainingError, match="no such run"):
        choose(found, ["c3"])
    with pytest.raises(TrainingError, match="several runs begin so"):
        choose(found, [""])
    with pytest.raises(TrainingError, match="no runs yet"):
        choose([], [])


class FullStore(FolderStore):
    """A store that can be read only."""

    def put_bytes(self, key: str, data: bytes) -> None:
        raise StoreError("the disk is full")


def test_a_store_that_fails_does_not_stop_training(tmp_path: Path, profile_file: Path) -> None:
    warnings: list[str] = []
    record = Record(tmp_path / "metrics.jsonl")
    resolved = plan(load_profile(profile_file))
    writer = RunWriter(FullStore(tmp_path), "tiny", FIRST, resolved, [], enabled=True, warn=warnings.append)
    writer.write("RUNNING", record)
    assert len(warnings) == 1 and "the disk is full" in warnings[0]


class SlowStore(FolderStore):
    """A store that takes nothing before it is let to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_asked, self.is_let = threading.Event(), threading.Event()
        self.puts: list[str] = []

    def put_bytes(self, key: str, data: bytes) -> None:
        self.is_asked.set()
        assert self.is_let.wait(30)
        super().put_bytes(key, data)
        self.puts.append(key.rpartition("/")[2])


def test_a_slow_store_does_not_hold_training_up(
    tmp_path: Path, profile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, and nothing waits in a line; the last record waits until it is stored."""
    monkeypatch.setattr(runs, "_WRITE_EVERY_S", 0.0)
    store, record = SlowStore(tmp_path), Record(tmp_path / "metrics.jsonl")
    resolved = plan(load_profile(profile_file))
    writer = RunWriter(store, "tiny", FIRST, resolved, [], enabled=True, warn=pytest.fail)
    for step in range(1, 4):
        record.add({"step": step, "loss": 1.0})
        writer.write("RUNNING", record, soon=True)
        assert store.is_asked.wait(30)
    assert store.puts == []
    threading.Timer(0.2, store.is_let.set).start()
    writer.write("FINISHED", record)
    assert store.puts == ["metrics.jsonl", "run.json"] * 2, "the first one, and the last"
    (run,) = read_runs(store, "tiny")
    assert (run.status, run.step, len(run.lines)) == ("FINISHED", 3, 3)


def test_a_resumed_run_keeps_its_start_and_soon_waits(tmp_path: Path, profile_file: Path) -> None:
    store, resolved = open_store(f"file://{tmp_path}"), plan(load_profile(profile_file))
    record = Record(tmp_path / "metrics.jsonl")
    first = RunWriter(store, "tiny", FIRST, resolved, [], enabled=True, warn=pytest.fail)
    first.write("RUNNING", record)
    record.add({"step": 7, "loss": 1.0})
    first.write("RUNNING", record, soon=True)
    before = read_runs(store, "tiny")[0]
    assert before.step == 0, "written again although half a minute has not passed"
    second = RunWriter(store, "tiny", FIRST, resolved, [], enabled=True, warn=pytest.fail)
    second.write("FINISHED", record)
    after = read_runs(store, "tiny")
    assert [(run.started_at, run.status, run.step) for run in after] == [(before.started_at, "FINISHED", 7)]


def test_sec14_hostile_names_in_the_report(tmp_path: Path) -> None:
    bad = '$\\frac{1}{ <script>alert(1)</script> " onload=x \u202e \u0627\u0644'
    shown = bad.replace("\u202e", "\\u202e")
    lines = [{"step": step, f"heldout_bits_per_byte/dataset/{bad}": 1.0 / step} for step in (1, 2)]
    lines += [{"step": 1, "heldout_bits_per_byte/dataset/$x$": 2.0}]
    plan = {"profile": bad, "recipe": {"num_steps": 2}}
    run = Run(FIRST, bad, 2, bad, bad, plan, [bad], {}, code_version=bad, lines=lines)
    write_report([run], tmp_path)
    page = document_fromstring((tmp_path / "report.html").read_text())
    assert not page.xpath("//script | //*[@onload]")
    assert [item.text_content() for item in page.xpath("//h1/bdi")] == [shown]
    row = page.xpath("//tbody/tr")[0]
    assert [cell.text_content() for cell in row.xpath("td")] == [shown, "2 of 2", shown, shown, shown, "none"]
    assert f"{FIRST[:8]} {shown}" in [item.text_content() for item in page.xpath("//th[@scope='col']")]


DAMAGED = {
    "empty": b"",
    "cut off": b'{"run": "a1',
    "another kind": b"[]",
    "not text": b"\xff\xfe",
    "a key is missing": b'{"run": "a1"}',
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_t8_a_damaged_record_does_not_hide_the_others(site: Path, name: str, content: bytes) -> None:
    path = site / "data/models/tiny/runs" / FIRST[:8] / name
    path.write_bytes(content)
    warnings: list[str] = []
    runs = read_runs(open_store(f"file://{site / 'data'}"), "tiny", warnings.append)
    is_empty_list = name == "metrics.jsonl" and not content  # killed before the first line
    assert [run.run for run in runs] == ([SECOND, FIRST] if is_empty_list else [SECOND])
    assert len(warnings) == (0 if is_empty_list else 1)
    assert all(f"{FIRST[:8]}/{name}" in text for text in warnings)
    assert SECOND[:8] in call("list", str(site), "--local")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_t8_training_sets_a_damaged_record_aside_and_continues(
    tmp_path: Path, profile_file: Path, content: bytes
) -> None:
    store, prefix = FolderStore(tmp_path / "store"), f"models/tiny/runs/{FIRST[:8]}/"
    store.put_bytes(prefix + "run.json", content)
    warnings: list[str] = []
    resolved = plan(load_profile(profile_file))
    writer = RunWriter(store, "tiny", FIRST, resolved, [], enabled=True, warn=warnings.append)
    record = Record(tmp_path / "metrics.jsonl")
    record.add({"step": 1, "loss": 2.0})
    writer.write("RUNNING", record)
    assert len(warnings) == 1 and "is damaged" in warnings[0] and "run.json.damaged" in warnings[0]
    assert store.get_bytes(prefix + "run.json.damaged") == content
    assert [(run.run, run.status) for run in read_runs(store, "tiny", pytest.fail)] == [(FIRST, "RUNNING")]


def test_t10_a_speed_is_the_same_number_everywhere(tmp_path: Path) -> None:
    speeds = [100.0, *[11_548.3] * 38, 5_073.0]  # compiling, then steady, then a checkpoint
    lines = [
        {"step": step, "loss": 1.0, "tokens_per_s": speed, "mfu": speed / 1e5} for step, speed in enumerate(speeds)
    ]
    for summary in ({}, {"tokens_per_s": typical(lines, "tokens_per_s"), "mfu": typical(lines, "mfu")}):
        run = Run(FIRST, "FINISHED", 40, "", "", {}, [], summary, lines=lines)
        assert run.number("tokens_per_s") == 11_548.3
        assert run.number("mfu") == pytest.approx(0.115483)
        assert run.number("loss") == 1.0 and run.number("energy_kwh") is None
    rows = dict(
        summary_rows(
            Summary(
                profile="tiny",
                mlflow="",
                unchanged=False,
                seconds={},
                site="",
                remove="",
                metrics={
                    "train": {"tokens_per_s": 11_548.3, "heldout_bits_per_byte_after": 0.233},
                    "evaluate": {"bits_per_byte_before": 8.0, "bits_per_byte_after": 0.22684},
                },
            )
        )
    )
    assert rows["tokens/s"] == _number(11_548.3) == "11,548"
    assert rows["bits per byte"] == "8.0000 before, 0.2268 after"
