"""The lake's commands against a deployed site: a mix that a person approves, what the dataset is, a withdrawal."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign.files import sha256_bytes
from stacks.node.spec import NodeSpec
from tests.e2e.node_fixture import pids_where
from tests.e2e.site_fixture import SOVEREIGN, LiveSite
from tests.e2e.test_way import receipt, wait_for
from tests.sovereign.lake.pdf import pdf_page

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ARCHIVE, OFFICE = "National Archive", "River Office"
WEIGHTS = {"demonstration": 3, "archive": 1}
SENTENCE = (
    "the law of rivers and of bridges says that a mill below the town may take water when the council has "
    "heard every farmer who lives on the other bank and has paid what was asked for in the year before"
)
WORDS = [*2 * SENTENCE.split(), *(one + two for one in ("bar", "mon", "tel", "wick") for two in ("den", "ford", "ley"))]


def make_text(draw: random.Random, count: int) -> str:
    """A sentence of `count` words."""
    return " ".join(draw.choices(WORDS, k=count)).capitalize() + "."


def write_archive(path: Path) -> None:
    """JSON lines of made-up sentences by two owners; every tenth is there twice, of both."""
    draw, lines = random.Random(5), []
    for number in range(60):
        owners = [ARCHIVE, OFFICE] if number % 10 == 0 else [(ARCHIVE, OFFICE)[number % 2]]
        text = make_text(draw, 40)
        lines += [{"text": text, "owner": owner} for owner in owners]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_journal(path: Path) -> None:
    """9,000 documents, which are some tasks of curation: of ten one is a copy, one has another last sentence."""
    draw, texts = random.Random(6), list[str]()
    for number in range(9_000):
        kind = number % 10
        before = texts[draw.randrange(len(texts))] if texts and kind < 2 else ""
        texts.append(before if before and kind == 0 else f"{before or make_text(draw, 120)} {make_text(draw, 4)}")
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def lake(live: LiveSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    """The session's site with an archive beside the demonstration country, and a mix that must be approved."""
    folder = tmp_path_factory.mktemp("archive")
    folder.chmod(0o755)  # pods do not run as root
    write_journal(folder / "journal.jsonl")
    folder = folder / "archive"
    folder.mkdir()
    write_archive(folder / "archive.jsonl")
    (folder / "letter.pdf").write_bytes(pdf_page(f"A letter to the council: {SENTENCE}."))
    before = live.site.profile_path.read_text()
    common = {"licence": "CC-BY-4.0", "language": "en"}
    archive = {"name": "archive", "path": str(folder), "owner": ARCHIVE, **common}
    journal = {"name": "journal", "path": str(folder.parent / "journal.jsonl"), "owner": "Journal", **common}
    live.edit(corpus={"sources": [archive, journal], "curation": {"task_mb": 1}}, mix={"sources": WEIGHTS})
    live.edit(training={"tokens": 100_000})
    live.edit(
        governance={"mix_approval": "required"}, rewards={"fund": {"amount": 1000, "currency": "EUR"}, "floor": 1}
    )
    live.run("deploy", "--stack", "cluster", "--stack", "datalake")
    yield live
    live.site.withdrawals_file.unlink(missing_ok=True)
    live.site.profile_path.write_text(before)


def answer(live: LiveSite, *arguments: str) -> Any:
    """The JSON of a command."""
    return json.loads(live.run(*arguments, "--json"))


def test_shards_are_made_of_an_approved_mix_only(lake: LiveSite, tmp_path: Path) -> None:
    assert "no person has approved the mix of this dataset yet" in lake.refused("train")
    seen = tmp_path / "mix.json"
    shown = answer(lake, "lake mix", "--out", str(seen))
    assert shown["approval"] is None and "no person has approved" in lake.refused("train")
    lake.edit(mix={"sources": WEIGHTS | {"archive": 2}})
    assert "got: another mix.sources.archive" in lake.refused("lake approve", "--by", "A. Person", "--mix", str(seen))
    lake.edit(mix={"sources": WEIGHTS})
    who = ["--by", "A. Person", "--note", "meeting of 3 May"]
    approved = answer(lake, "lake approve", "--mix", str(seen), *who)
    path = lake.site.receipts_dir / "mix.json"
    assert approved["approval"] | {"at": ""} == {"by": "A. Person", "at": "", "note": "meeting of 3 May"}
    assert json.loads(path.read_text()) | {"approval": None, "warnings": shown["warnings"]} == shown
    lake.run("train")
    tokenized = receipt(lake, "tokenize")
    assert tokenized.inputs["curated/ci/mix.json"] == sha256_bytes(path.read_bytes())
    assert tokenized.metrics["mix"]["approved_by"] == "A. Person"
    assert tokenized.metrics["train"]["tokens"] == sum(shown["shards"]["source"].values())
    shares = shown["run"]["source"]
    assert shares["archive"] / sum(shares.values()) == pytest.approx(0.25, rel=0.02)


def test_four_pods_curate_to_the_same_bytes_though_one_is_killed(lake: LiveSite) -> None:
    before, spec = receipt(lake, "curate"), NodeSpec.load(lake.site.node_dir)
    assert spec is not None and sum("/train-" in key for key in before.outputs) >= 4
    assert min(before.metrics["rejected"][reason] for reason in ("duplicate", "near duplicate")) > 500
    folder = lake.site.node_dir / "volumes" / "objects" / "curated" / "ci"
    (folder / "receipt.json").unlink()
    lake.edit(corpus={"curation": {"task_mb": 1, "ranks": 4}})
    with lake.start("stage curate") as process:
        wait_for("a unit", lambda: any(folder.glob("units/*/markers/*/*")), 240)
        second = wait_for("rank 1", lambda: pids_where(spec, "environ", lambda own: b"JOB_COMPLETION_INDEX=1\0" in own))
        for pid in second:
            os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    pods = lake.cluster.find("v1", "Pod", "training", labelSelector="batch.kubernetes.io/job-name=ci-curate")
    assert Counter(pod["status"]["phase"] for pod in pods) == {"Succeeded": 4, "Failed": 1}
    after = receipt(lake, "curate")
    assert after.finished_at > before.finished_at
    assert (after.outputs, after.metrics, after.key) == (before.outputs, before.metrics, before.key)


def test_training_took_what_was_approved(lake: LiveSite) -> None:
    approved = json.loads((lake.site.receipts_dir / "mix.json").read_text())
    ledger = answer(lake, "ledger")
    assert ledger["tokens"] == approved["request"]["tokens"]
    for owner in (ARCHIVE, OFFICE):
        assert ledger["by_owner"][owner]["share"] == pytest.approx(approved["run"]["owner_share"][owner], rel=0.05)


def test_another_mix_than_the_approved_one_is_refused(lake: LiveSite) -> None:
    lake.edit(mix={"sources": WEIGHTS | {"archive": 2}})
    assert "the profile asks for another mix than the approved one" in lake.refused("train")
    lake.edit(mix={"sources": WEIGHTS})
    before = receipt(lake, "train").finished_at
    lake.run("train")
    assert receipt(lake, "train").finished_at == before


def test_what_the_dataset_is_can_be_looked_up_proved_and_published(lake: LiveSite, tmp_path: Path) -> None:
    (version,) = [one for one in answer(lake, "lake ls")["versions"] if one["newest"]]
    at = ["--at", f"ci@{version['version']}"]
    (row,) = answer(lake, "lake query", "SELECT count(*) AS n FROM documents", *at)["rows"]
    made = receipt(lake, "curate").metrics
    assert row["n"] == version["documents"] == sum(made[split]["documents"] for split in ("train", "heldout"))
    assert answer(lake, "lake show")["version"] == version["version"] in lake.run("lake history", "--json")
    assert sum(answer(lake, "lake rejected")["by_reason"].values()) == made["documents_in"] - row["n"]
    assert {ARCHIVE, OFFICE} <= set(answer(lake, "lake rights")["owners"])

    manifest = answer(lake, "lake manifest")["manifest"]
    wanted = "SELECT doc_id FROM documents WHERE source = 'archive' AND doc_id LIKE '%.pdf'"
    (document,) = answer(lake, "lake query", wanted, *at)["rows"]
    other = tmp_path / "other.txt"
    other.write_text("A text that nobody gave to this dataset, of which the proof must say that it is not there.")
    for about, proof in ((["--document", document["doc_id"]], "in.json"), (["--text", str(other)], "out.json")):
        lake.run("lake prove", *about, "--out", str(tmp_path / proof))
        command = [SOVEREIGN, "lake", "check", str(tmp_path / proof), "--manifest", manifest]
        subprocess.run(command, check=True, capture_output=True)

    card = Path(answer(lake, "lake card")["card"])
    assert OFFICE in card.read_text()
    lake.run("lake summary", "--json", str(tmp_path / "summary.json"), "--html", str(tmp_path / "summary.html"))
    assert json.loads((tmp_path / "summary.json").read_text()) and "<html" in (tmp_path / "summary.html").read_text()
    rewards = answer(lake, "lake rewards")
    assert {ARCHIVE, OFFICE} <= {row["owner"] for row in rewards["owners"]}
    lake.run("lake rewards", "--check", str(lake.site.receipts_dir / "rewards.json"))


def test_withdrawn_owner_is_out_of_the_next_version_and_the_mix_is_asked_for_anew(lake: LiveSite) -> None:
    lake.run("lake withdraw", "--owner", OFFICE, "--reason", "contract ended")
    assert "the approved mix is of another version of the dataset" in lake.refused("train")
    (newest,) = [one for one in answer(lake, "lake ls")["versions"] if one["newest"]]
    where = answer(lake, "lake where", "--owner", OFFICE)
    assert where["curated"]["documents"] == [] and where["models"] and where["shards"]
    assert [one["version"] for one in where["datasets"] if one["is_current"]] == []
    assert newest["version"] not in [one["version"] for one in where["datasets"]] != []
    lake.run("lake approve", "--by", "A. Person")
    lake.run("train")
    assert OFFICE not in answer(lake, "ledger")["by_owner"]
    assert answer(lake, "lake where", "--owner", OFFICE)["shards"] == []
