"""The stage `evaluate` on a real model that knows four answers and not the fifth."""

from __future__ import annotations

import io
import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.base import read_base, store_base
from sovereign.errors import TrainingError
from sovereign.lake.documents import DocumentWriter, read_documents
from sovereign.profile_mix import Mix
from sovereign.receipts import Receipt
from sovereign.store import open_store
from tests.training.lake import KNOWN, SOURCE, context_for, make_lake, make_profile, store_output, write_receipt
from training.evaluate import evaluate
from training.measures import choose_questions
from training.registry import open_client

BASE_TOKENS = b'{"end_of_text": 0, "turn_ends": [], "padding": 0, "begin": null, "pieces": {}}'
TASK_FILES = ("en.jsonl", "en.yaml", "fr.jsonl", "fr.yaml")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the outputs of `evaluate` in it."""
    root = tmp_path_factory.mktemp("lake")
    store = make_lake(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        output = evaluate.run(context_for("evaluate", store, root / "work", make_profile(), io.StringIO()))
    store_output(store, root, "evaluate", output)
    return root


@pytest.fixture
def evaluation(lake: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((lake / "models/tiny/evaluate/evaluation.json").read_text())
    return found


def test_answers_are_counted_by_language_owner_and_way_to_ask(evaluation: dict[str, Any]) -> None:
    questions = evaluation["questions"]
    right, half = {"asked": 2, "correct": 2, "accuracy": 1.0}, {"asked": 2, "correct": 1, "accuracy": 0.5}
    assert questions["by_language"]["en"] == {"heldout": right, "trained": {"asked": 1, "correct": 1, "accuracy": 1.0}}
    assert questions["by_language"]["fr"] == {"heldout": half}
    assert questions["by_owner"]["River Office"]["heldout"] == half
    assert questions["overall"]["heldout"] == {"asked": 4, "correct": 3, "accuracy": 0.75}
    assert {example["language"]: example["given"] for example in questions["examples"]}["en"] in {
        "Velmora",
        "Tessa Orn",
    }


def test_bits_per_byte_of_a_model_that_knows(evaluation: dict[str, Any]) -> None:
    rows = evaluation["bits_per_byte"]["by_language"]
    assert list(rows) == ["en", "fr"]
    english = rows["en"]
    assert english["documents"] == 3
    assert english["model"] < 0.3 * english["unigram"] < 0.3 * english["uniform"]
    assert english["untrained"] == pytest.approx(english["uniform"], rel=0.1)
    assert rows["fr"]["model"] > english["model"]  # one of its two documents is new to the model
    overall = evaluation["bits_per_byte"]["overall"]
    assert overall["bytes"] == sum(row["bytes"] for row in rows.values())
    weighted = sum(row["unigram"] * row["bytes"] for row in rows.values()) / overall["bytes"]
    assert overall["unigram"] == pytest.approx(weighted, abs=1e-3)
    assert "xz" not in overall  # generated text says nothing about a compressor
    assert evaluation["bits_per_byte"]["by_domain"] == {"demonstration": overall}
    assert evaluation["bits_per_byte"]["by_domain_and_language"] == {"demonstration": rows}


def test_domains_are_the_sources(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(lake, tmp_path / "lake")
    held = read_documents([lake / "curated/tiny/heldout-00000.parquet"])
    with DocumentWriter(tmp_path / "lake/curated/tiny", "heldout") as writer:
        for number, item in enumerate(held):
            writer.add(replace(item, source="gazette" if number % 2 else "archive"))
    store = open_store(f"file://{tmp_path}/lake")
    metrics = Receipt.from_bytes(store.get_bytes("curated/tiny/receipt.json")).metrics
    write_receipt(store, tmp_path / "lake", "curate", "curated/tiny/", metrics)
    output = evaluate.run(context_for("evaluate", store, tmp_path / "work", make_profile(), io.StringIO()))
    bits = json.loads(output.files["models/tiny/evaluate/evaluation.json"].read_text())["bits_per_byte"]
    assert {name: row["documents"] for name, row in bits["by_domain"].items()} == {"archive": 3, "gazette": 2}
    cells = [row for languages in bits["by_domain_and_language"].values() for row in languages.values()]
    for measure in ("bytes", "tokens", "documents"):
        assert sum(row[measure] for row in cells) == bits["overall"][measure]
    whole = sum(row["model"] * row["bytes"] for row in cells) / bits["overall"]["bytes"]
    assert bits["overall"]["model"] == pytest.approx(whole, abs=1e-3)
    assert output.metrics["bits_per_byte_by_domain"] == {name: row["model"] for name, row in bits["by_domain"].items()}


def test_overlap_with_the_training_is_reported_and_listed(lake: Path, evaluation: dict[str, Any]) -> None:
    """The lake holds out what it trains on, but for one fact; "Quelle est la capitale ?" is too short to look for."""
    contamination = evaluation["contamination"]
    assert contamination["by_kind"]["question"]["items"] == 4
    assert contamination["by_kind"]["document"]["items"] == 5
    overall = {"items": 9, "measured": 7, "contaminated": 5, "share": 0.7143}
    assert overall.items() <= contamination["overall"].items()
    lines = (lake / "models/tiny/evaluate/contamination.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == contamination["overall"]["contaminated"]
    capital = next(row for row in rows if row["id"] == "en-What is the capital of Auria?")
    assert (capital["kind"], capital["found"], capital["document"]) == ("question", 1, "d0")


def test_recitation_is_reported_with_its_sample(evaluation: dict[str, Any]) -> None:
    memorisation = evaluation["memorisation"]
    assert memorisation["prompt_tokens"] == memorisation["continuation_tokens"] == 8  # the lake's documents are short
    assert memorisation["trained"]["sampled"] == memorisation["trained"]["eligible"] > 0
    assert memorisation["trained"]["rate"] >= 0.5  # taught by heart from their beginnings, asked from anywhere
    assert memorisation["heldout"]["eligible"] >= memorisation["trained"]["eligible"]


@pytest.mark.filterwarnings("ignore")  # lm-evaluation-harness and its libraries
def test_tasks_of_the_profile_are_run(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(f"file://{lake}")
    profile = make_profile(tasks=["questions_en", "questions_fr"])
    output = evaluate.run(context_for("evaluate", store, tmp_path / "work", profile, io.StringIO()))
    assert output.metrics["tasks"] == {"questions_en/exact_match": 1.0, "questions_fr/exact_match": 0.5}
    assert output.metrics["accuracy"] == {"en": 1.0, "fr": 0.5}
    written = {key for key in output.files if "/tasks/" in key}
    assert written == {f"models/tiny/evaluate/tasks/questions_{name}" for name in TASK_FILES}
    card = output.files["models/tiny/evaluate/README.md"].read_text()
    assert "| questions\\_fr | 2 | exact\\_match | 0.5000 |" in card


@pytest.mark.filterwarnings("ignore")  # lm-evaluation-harness and its libraries
def test_items_of_tasks_are_looked_for_in_the_shards(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site's task asks what a document of the shards tells, and what one tells that the mix leaves out."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(lake, tmp_path / "lake")
    left_out = "The long bridge over the river Orn was opened in the year of the great flood."
    documents = list(read_documents([lake / "curated/tiny/train-00000.parquet"]))
    with DocumentWriter(tmp_path / "lake/curated/tiny", "train") as writer:
        for item in [*documents, replace(documents[0], doc_id="left-out", text=left_out)]:
            writer.add(item)
    store = open_store(f"file://{tmp_path}/lake")
    metrics = Receipt.from_bytes(store.get_bytes("curated/tiny/receipt.json")).metrics
    write_receipt(store, tmp_path / "lake", "curate", "curated/tiny/", metrics)
    site = tmp_path / "site"
    site.mkdir()
    rows = [{"text": KNOWN[0].prompt, "right": KNOWN[0].answer}, {"text": left_out, "right": "Yes"}]
    (site / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (site / "own.yaml").write_text(
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: own.jsonl}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{right}}'\n"
        "metric_list: [{metric: exact_match}]\ngeneration_kwargs: {max_gen_toks: 8, until: ['.']}\n"
    )
    profile = make_profile(tasks=["own", "questions_en"], task_folder=str(site))
    mixed = profile.model_copy(update={"mix": Mix()})
    stream = io.StringIO()
    output = evaluate.run(context_for("evaluate", store, tmp_path / "work", mixed, stream))
    found = json.loads(output.files["models/tiny/evaluate/evaluation.json"].read_text())["contamination"]
    assert {"items": 2, "measured": 2, "contaminated": 1}.items() <= found["by_kind"]["own"].items()
    assert found["by_language"]["und"] == found["by_kind"]["own"]
    assert set(found["by_kind"]) == {"document", "question", "own"}, "the kit's own tasks ask the questions"
    lines = output.files["models/tiny/evaluate/contamination.jsonl"].read_text().splitlines()
    row = next(row for row in map(json.loads, lines) if row["kind"] == "own")
    assert (row["id"], row["document"]) == ("own/0", "d0")
    output = evaluate.run(context_for("evaluate", store, tmp_path / "work", profile, stream))
    found = json.loads(output.files["models/tiny/evaluate/evaluation.json"].read_text())["contamination"]
    assert found["by_kind"]["own"]["contaminated"] == 2, "without a mix, every document is in the shards"


@pytest.mark.filterwarnings("ignore")  # lm-evaluation-harness and its libraries
def test_tasks_are_loaded_before_the_model(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "far.yaml").write_text(
        "task: far\ndataset_path: someone/somewhere\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: '{{text}}'\n"
    )
    stream = io.StringIO()
    profile = make_profile(tasks=["far"], task_folder=str(tmp_path / "site"))
    context = context_for("evaluate", open_store(f"file://{lake}"), tmp_path / "work", profile, stream)
    with pytest.raises(TrainingError, match=r"task far \(.*far\.yaml\) cannot be run"):
        evaluate.run(context)
    assert "loading far" in stream.getvalue() and "loading the model" not in stream.getvalue()


def test_a_fork_is_compared_with_its_base(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the base is the trained model itself."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, store = lake / "models/tiny/train/model", open_store(f"file://{shutil.copytree(lake, tmp_path / 'lake')}")
    known = read_base(folder)
    store_base(store, folder, known.digest)
    store.put_bytes("models/tiny/tokens/base_tokens.json", BASE_TOKENS)
    metrics = Receipt.from_bytes(store.get_bytes("models/tiny/tokens/receipt.json")).metrics
    write_receipt(store, tmp_path / "lake", "tokenize", "models/tiny/tokens/", metrics)
    profile = make_profile(base={"model": str(folder), "known": known.model_dump()})
    output = evaluate.run(context_for("evaluate", store, tmp_path / "work", profile, io.StringIO()))
    assert output.metrics["bits_per_byte_before"] == output.metrics["bits_per_byte_after"] < 3


def test_receipt_has_what_the_summary_shows(lake: Path, evaluation: dict[str, Any]) -> None:
    receipt = json.loads(open_store(f"file://{lake}").get_bytes("models/tiny/evaluate/receipt.json"))
    metrics = receipt["predicate"]["metrics"]
    assert metrics["accuracy"] == {"en": 1.0, "fr": 0.5}
    assert metrics["bits_per_byte_before"] == evaluation["bits_per_byte"]["overall"]["untrained"]
    assert metrics["bits_per_byte_after"] == evaluation["bits_per_byte"]["overall"]["model"]
    assert metrics["share_of_unigram"] < 1


@pytest.mark.filterwarnings("ignore")  # MLflow's own code and that of its libraries
def test_real_text_is_measured_against_xz_and_recorded_in_mlflow(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts when no server does
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = client.create_run(client.create_experiment("tiny")).info.run_id
    shutil.copytree(lake, tmp_path / "lake")
    store = open_store(f"file://{tmp_path}/lake")
    write_receipt(store, tmp_path / "lake", "train", "models/tiny/train/", {"mlflow_run_id": run_id})
    context = context_for("evaluate", store, tmp_path / "work", make_profile(sources=[SOURCE]), io.StringIO())
    output = evaluate.run(context)
    recorded = client.get_run(run_id).data.metrics
    assert recorded["evaluation/accuracy/fr"] == 0.5
    assert recorded["evaluation/bits_per_byte_xz"] == output.metrics["bits_per_byte_xz"]
    texts = [item.text for item in read_documents([tmp_path / "lake/curated/tiny/heldout-00000.parquet"])]
    written = json.loads(output.files["models/tiny/evaluate/evaluation.json"].read_text())
    english = "\n".join(texts[:3]).encode()
    expected = 8 * len(lzma.compress(english, preset=9)) / (len(english) - 2)  # less the line feeds between
    assert written["bits_per_byte"]["by_language"]["en"]["xz"] == pytest.approx(expected, abs=1e-4)
    assert {item.path for item in client.list_artifacts(run_id, "evaluation")} == {
        f"evaluation/{name}"
        for name in ("README.md", "contamination.jsonl", "evaluation.json", "languages.png", "loss.png", "tasks")
    }


def test_card_has_every_number(lake: Path, evaluation: dict[str, Any]) -> None:
    folder = lake / "models/tiny/evaluate"
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["language"] == ["en", "fr"]
    assert front["license_name"] == "CC-BY-4.0 AND CC0-1.0"
    assert len(front["model-index"][0]["results"]) == 4
    for row in evaluation["bits_per_byte"]["by_language"].values():
        for measure in ("model", "untrained", "unigram", "uniform"):
            assert f"{row[measure]:.3f}" in card
    for text in (
        evaluation["model_digest"],
        "| Archive | 3 |",
        "| CC0-1.0 | 1 |",
        "| fr | 2 | 50.0% | 0 | |",
        "1,234 tokens/s",
    ):
        assert text in card
    assert "[" in card.partition("![")[2]  # plots have texts for those who do not see them
    for name in ("loss.png", "languages.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in card


def test_questions_are_drawn_evenly_and_the_same_every_time() -> None:
    questions = [
        {"question_id": f"{language}{number}{split}", "language": language, "split": split}
        for language in ("en", "ar")
        for split in ("heldout", "train")
        for number in range(300)
    ]
    chosen = choose_questions(questions, 200)
    assert chosen == choose_questions(reversed(questions), 200)
    assert sum(question["split"] == "heldout" for question in chosen) == 400
    assert sum(question["split"] == "train" for question in chosen) == 100
    numbers = {question["question_id"] for question in chosen if question["split"] == "heldout"}
    assert any(f"en{number}heldout" in numbers for number in range(290, 300))  # not only the first ones
