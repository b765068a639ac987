"""The stage runner: skipping, receipts, checks of what goes in, and its process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign.errors import StageError, StoreError
from sovereign.files import sha256_bytes
from sovereign.plan import plan
from sovereign.profile import Profile, parse_profile
from sovereign.receipts import Receipt
from sovereign.stages import Stage, StageContext, StageOutput, is_current, main, read_receipt, receipt_key, run_stage
from sovereign.store import FolderStore

PROFILE = """
apiVersion: sovereign/v1
name: tiny
corpus: {demonstration: {facts: 10}}
model: {parameters: 4.0e+5, vocab_size: 1024}
training: {tokens: 1.0e+5}
"""


@pytest.fixture
def profile() -> Profile:
    return parse_profile(PROFILE)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def letters(*names: str, version: int = 1, run: Callable[[StageContext], None] | None = None) -> Stage:
    """A stage without inputs that makes one file for each name; `run` is called before."""

    def make(context: StageContext) -> StageOutput:
        if run is not None:
            run(context)
        files = {}
        for name in names:
            path = context.workdir / name
            path.write_text(f"{name} of version {version}")
            files[f"raw/{context.dataset}/{name}"] = path
        return StageOutput(files, {"number": len(names)})

    return Stage("corpus", make, (), lambda *_: {"names": list(names)}, "raw/{dataset}/", version)


def run(stage: Stage, profile: Profile, store: FolderStore, folder: Path) -> list[str]:
    """Run it; gives back the messages."""
    stream = io.StringIO()
    run_stage(stage, profile, store, folder / "work", stream)
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def test_result_and_receipt_are_stored(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    assert run(letters("a", "b"), profile, store, tmp_path) == ["done"]
    receipt = read_receipt(store, letters(), "tiny")
    assert receipt is not None
    expected = {f"raw/tiny/{name}": sha256_bytes(f"{name} of version 1".encode()) for name in "ab"}
    assert receipt.outputs == expected
    assert {key: sha256_bytes(store.get_bytes(key)) for key in receipt.outputs} == expected
    assert receipt.metrics == {"number": 2}


def test_unchanged_stage_is_skipped_and_changed_one_is_not(
    profile: Profile, store: FolderStore, tmp_path: Path
) -> None:
    run(letters("a"), profile, store, tmp_path)
    assert run(letters("a"), profile, store, tmp_path) == ["unchanged"]
    assert run(letters("a", version=2), profile, store, tmp_path) == ["done"]
    assert run(letters("a", "b", version=2), profile, store, tmp_path) == ["done"]
    store.delete("raw/tiny/b")
    assert run(letters("a", "b", version=2), profile, store, tmp_path) == ["done"]
    other = replace(letters("a", "b", version=2), external_inputs=lambda _profile, _store: {"source/x": "00"})
    assert run(other, profile, store, tmp_path) == ["done"]


def test_files_that_are_no_longer_made_go(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    run(letters("a", "b"), profile, store, tmp_path)
    run(letters("b", "c"), profile, store, tmp_path)
    assert list(store.list("raw/tiny/")) == ["raw/tiny/b", "raw/tiny/c", "raw/tiny/receipt.json"]


class EndingStore(FolderStore):
    """Ends, as a killed process would, before write number `left`."""

    left = 0

    @contextmanager
    def prepare(self, files: Mapping[str, Path | bytes]) -> Iterator[Callable[[], None]]:
        def store_all() -> None:
            for key, content in files.items():
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                with FolderStore(self.root).prepare({key: content}) as store_one:
                    store_one()

        yield store_all


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_receipt_never_vouches_for_files_of_another_run(
    writes: int, profile: Profile, store: FolderStore, tmp_path: Path
) -> None:
    first, second = letters("a", "b"), letters("a", "b", version=2)
    run(first, profile, store, tmp_path)
    ending = EndingStore(store.root)
    ending.left = writes
    with pytest.raises(KeyboardInterrupt):
        run(second, profile, ending, tmp_path)
    # The files may be of either version; asked for either, the stage makes it.
    for stage in (first, second):
        run(stage, profile, store, tmp_path)
        assert store.get_bytes("raw/tiny/a") == f"a of version {stage.version}".encode()
        receipt = is_current(store, stage, profile, plan(profile))
        assert receipt is not None
        assert receipt.outputs["raw/tiny/b"] == sha256_bytes(store.get_bytes("raw/tiny/b"))


def test_sec1_publishing_comes_after_the_receipt_and_is_repeated_until_it_succeeds(
    profile: Profile, store: FolderStore, tmp_path: Path
) -> None:
    published: list[str] = []
    is_reachable = False

    def publish(context: StageContext, receipt: Receipt) -> None:
        assert read_receipt(context.store, letters(), "tiny") == receipt
        if not is_reachable:
            raise StageError("the registry does not answer")
        published.append(receipt.key)

    first, second = (replace(letters("a", version=version), publish=publish) for version in (1, 2))
    with pytest.raises(StageError, match="does not answer"):
        run(first, profile, store, tmp_path)
    assert is_current(store, first, profile, plan(profile)) is None  # so that commands run it again
    is_reachable = True
    assert run(first, profile, store, tmp_path) == ["unchanged"]
    assert is_current(store, first, profile, plan(profile)) is not None
    assert run(first, profile, store, tmp_path) == ["unchanged"] and len(published) == 1
    for stage in (second, first):  # back to the first: it is another result, and published again
        assert run(stage, profile, store, tmp_path) == ["done"]
    assert len(published) == 3 and published[0] == published[2] != published[1]


def test_sec1_append_only_outputs_of_earlier_results_stay(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    for names in (("a", "kept-1", "b"), ("a", "kept-2")):
        run(replace(letters(*names), append_only="raw/{dataset}/kept-*"), profile, store, tmp_path)
    assert list(store.list("raw/tiny/")) == [f"raw/tiny/{name}" for name in ("a", "kept-1", "kept-2", "receipt.json")]


def test_failed_stage_keeps_the_result_before(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    def fail(context: StageContext) -> None:
        raise StageError("no")

    run(letters("a"), profile, store, tmp_path)
    with pytest.raises(StageError):
        run(letters("a", version=2, run=fail), profile, store, tmp_path)
    assert run(letters("a"), profile, store, tmp_path) == ["unchanged"]


def test_inputs_are_checked_against_their_receipt(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    def fetch(context: StageContext) -> None:
        assert context.fetch("raw/tiny/a").read_text() == "a of version 1"

    run(letters("a"), profile, store, tmp_path)
    needing = replace(letters("x", run=fetch), name="curate", needs=("corpus",), prefix="curated/{dataset}/")
    assert run(needing, profile, store, tmp_path) == ["done"]
    receipt = read_receipt(store, needing, "tiny")
    assert receipt is not None
    assert receipt.inputs == {"raw/tiny/a": sha256_bytes(b"a of version 1")}
    store.put_bytes("raw/tiny/a", b"changed by hand")
    fresh = replace(needing, version=2)
    with pytest.raises(StoreError, match="not what its receipt says"):
        run_stage(fresh, profile, store, tmp_path / "empty", io.StringIO())


def test_work_folder_of_another_run_is_not_trusted(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    run(letters("a"), profile, store, tmp_path)
    stale = tmp_path / "work" / "raw" / "tiny" / "a"
    stale.parent.mkdir(parents=True)
    stale.write_text("of another run")

    def fetch(context: StageContext) -> None:
        assert context.fetch("raw/tiny/a").read_text() == "a of version 1"

    needing = replace(letters("x", run=fetch), name="curate", needs=("corpus",), prefix="curated/{dataset}/")
    assert run(needing, profile, store, tmp_path) == ["done"]


def test_stage_before_must_have_run(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    needing = replace(letters("a"), name="curate", needs=("corpus",))
    with pytest.raises(StageError, match="needs stage corpus"):
        run(needing, profile, store, tmp_path)


def test_damaged_receipt_is_named(profile: Profile, store: FolderStore, tmp_path: Path) -> None:
    store.put_bytes(receipt_key(letters(), "tiny"), b"{}")
    with pytest.raises(StoreError, match="damaged receipt"):
        run(letters("a"), profile, store, tmp_path)


def test_metrics_that_no_receipt_can_hold_leave_the_result_before(
    profile: Profile, store: FolderStore, tmp_path: Path
) -> None:
    run(letters("a"), profile, store, tmp_path)
    stage = letters("a", version=2)
    bad = replace(stage, run=lambda context: replace(stage.run(context), metrics={"loss": float("nan")}))
    with pytest.raises(StoreError, match="cannot be written"):
        run(bad, profile, store, tmp_path)
    assert run(letters("a"), profile, store, tmp_path) == ["unchanged"]


def test_process_writes_progress_only_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(PROFILE)
    command = [sys.executable, "-m", "sovereign.stages", "run", "corpus", "--profile", str(tmp_path / "profile.yaml")]
    command += ["--store", f"file://{tmp_path / 'store'}", "--workdir", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["stage"] for event in events} == {"corpus"}
    assert events[-1]["message"] == "done"


def test_error_is_told_on_stderr_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "curate", "--profile", str(tmp_path / "none.yaml"), "--store", "file:///x", "--workdir", "/x"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: cannot read profile")
