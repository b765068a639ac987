"""What a person sees of a receipt's numbers at the end of a stage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sovereign.cli.app import app
from sovereign.cli.metrics import MAX_CHARS, metric_lines
from sovereign.cli.sites import find_profile
from sovereign.cli.work import owner_text
from sovereign.site import init_site


@pytest.mark.parametrize(
    ("metrics", "lines", "is_short"),
    [
        ({"loss": 1.23456, "step": 12345, "rate": 12500.0, "warning": None, "new": True}, None, False),
        ({"rejected": {"language": 3, "duplicate": 2}}, ["rejected: language 3, duplicate 2"], False),
        ({"rejected": {}, "aliases": []}, ["rejected: none", "aliases: none"], False),
        ({"aliases": ["candidate", "champion"]}, ["aliases: candidate, champion"], False),
        (
            {"owners": {f"o{number}": number for number in range(1200)}},
            ["owners: 1,200 entries, the largest: o1199 1,199, o1198 1,198, o1197 1,197, o1196 1,196, o1195 1,195"],
            True,
        ),
        (
            {"train": {"documents": 2, "by": {"en": 1, "fr": 1}}, "n": 1},
            ["n: 1", "train:", "  documents: 2", "  by: en 1, fr 1"],
            False,
        ),
        (
            {"en": {f"measure_{number}": number for number in range(12)}},
            [
                "en: " + ", ".join(f"measure_{number} {number}" for number in range(7)) + ",",
                "    " + ", ".join(f"measure_{number} {number}" for number in range(7, 12)),
            ],
            False,
        ),
        (
            {"examples": ["x" * 300, "y"]},
            ["examples: 2 entries, the first: " + "x" * 68, "    " + "x" * 96, "    " + "x" * 94 + " …"],
            True,
        ),
        (
            {"tasks": {f"t{number}": {"by": {"en": 1}, "documents": number} for number in range(13)}},
            ["tasks:"] + [row for n in range(12, 7, -1) for row in (f"  t{n}:", "    by: en 1", f"    documents: {n}")]
            + ["  and 8 more"],
            True,
        ),
    ],
)  # fmt: skip
def test_l12_numbers_are_short_lines(metrics: dict[str, Any], lines: list[str] | None, is_short: bool) -> None:
    expected = lines or ["loss: 1.235", "step: 12,345", "rate: 12,500", "new: yes"]
    assert metric_lines(metrics) == (["  " + line for line in expected], is_short)


def test_l12_no_metrics_make_long_lines_or_many() -> None:
    wide: dict[str, Any] = {f"name {number}": number for number in range(10_000)}
    deep: dict[str, Any] = {"a": {"b": {"c": {"d": {"e": {"f": wide}}}}}}
    metrics = {"wide": wide, "deep": deep, "x" * 500: "y" * 500, "texts": {f"t{n}": "z" * 90 for n in range(500)}}
    metrics |= {f"source s{number}": {"found": number, "skipped": {"a": 1}, "declared": deep} for number in range(700)}
    lines, is_short = metric_lines(metrics)
    assert is_short
    assert max(map(len, lines)) <= MAX_CHARS + 10
    assert len(lines) < 150
    assert "{" not in "".join(lines)
    assert "  source s699:" in lines and "  source s1:" not in lines


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"tokens": 40_960, "share": 40_960.0}, "40,960 tokens"),
        ({"tokens": 40_960, "share": 40_959.9996}, "40,960 tokens"),
        ({"tokens": 40_960, "share": 20_480.0}, "40,960 tokens; 20,480 where text of several owners is divided"),
    ],
)
def test_l20_tokens_of_one_owner_are_told_once(value: dict[str, float], text: str) -> None:
    assert owner_text(value) == text


def test_l12_a_stage_ends_with_lines_for_people_and_all_as_json(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    rows = [
        {"text": f"Le journal officiel numéro {n} paraît à Dakar le matin.", "owner": f"Owner {n}"} for n in range(40)
    ]
    (tmp_path / "texts" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    document = yaml.safe_load(find_profile(Path("ci")).read_text())
    source = {"name": "gazette", "path": str(tmp_path / "texts"), "owner": "A", "licence": "CC0-1.0", "language": "fr"}
    document["corpus"]["sources"] = [source]
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document))
    root = init_site(tmp_path / "site", tmp_path / "profile.yaml").root
    done = CliRunner().invoke(app, ["stage", "curate", str(root), "--local"], catch_exceptions=False)
    assert done.exit_code == 0 and not done.stdout
    lines = done.stderr.splitlines()
    assert re.search(r"\n    documents_by_owner: \d\d entries, the largest: ", done.stderr)
    assert lines[-1].endswith("--local --json shows all")
    shown = lines[next(number for number, line in enumerate(lines) if line.startswith("  documents_in")) :]
    assert max(map(len, shown[:-1])) <= MAX_CHARS + 10 and not any("{" in line for line in shown)
    done = CliRunner().invoke(app, ["stage", "curate", str(root), "--local", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["documents_in"] >= 40
