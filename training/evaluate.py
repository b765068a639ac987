"""Stage `evaluate`: what the trained model knows, measured on documents and questions that it was not trained on.

Writes evaluation.json, the model card and its plots. evaluation.json holds
    bits_per_byte   by_language: {<language>: row}, overall: row; a row has documents, bytes, tokens and bits per byte
                    of `model`, `untrained` (as training began: random weights, or the base), `unigram` and `uniform`
                    (baselines on the same tokenizer) and, for real text, `xz` (`xz -9` on the same documents)
    questions       by_language, by_owner: {<name>: {heldout, trained}}, overall: {heldout, trained}; each has asked,
                    correct, accuracy (0 to 1; exact match of the greedy answer). `heldout` are ways to ask that no
                    training document has. examples: one held-out question of each language and the answer given
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sovereign.base import base_inputs, fetch_base
from sovereign.errors import StageError, TrainingError
from sovereign.files import write_atomic
from sovereign.lake.documents import read_documents
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.serving.fetch import model_digest
from sovereign.stages import Stage, StageContext, StageOutput
from training import environment
from training.base_tokenizer import known_base, read_base_tokens
from training.registry import open_client

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

FORMAT = "sovereign/evaluation/v1"
MAX_BYTES_PER_LANGUAGE = 2 * 2**20
"""Held-out text that is measured in each language, bytes: enough for three digits, minutes at most on a CPU."""
TRAINED_QUESTIONS = 50
"""Questions asked in each language in the very words of a training document, for comparison."""


def _run(context: StageContext) -> StageOutput:
    environment.prepare(context.workdir, threads=context.plan.recipe.threads, world_size=1)
    from training.card import write_card

    receipts = _receipts(context)
    model, tokenizer = _load(context)
    evaluation = {
        "format": FORMAT,
        "dataset": context.dataset,
        "model_digest": _digest(context),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bits_per_byte": _bits_per_byte(context, model, tokenizer),
        "questions": _questions(context, model, tokenizer),
    }
    folder = context.workdir / "evaluate"
    write_atomic(folder / "evaluation.json", json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
    context.progress("writing the model card")
    history = _read_lines(context.fetch(f"models/{context.dataset}/train/metrics.jsonl"))
    write_card(folder, context.profile, context.plan, evaluation, receipts, history)
    metrics = summarise(evaluation)
    _record(folder, metrics, receipts["train"].metrics.get("mlflow_run_id"))
    files = {f"models/{context.dataset}/evaluate/{path.name}": path for path in sorted(folder.iterdir())}
    return StageOutput(files, metrics)


def summarise(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of evaluation.json that the receipt, MLflow and the summary show."""
    overall, questions = evaluation["bits_per_byte"]["overall"], evaluation["questions"]
    metrics = {
        "bits_per_byte_before": overall["untrained"],
        "bits_per_byte_after": overall["model"],
        "bits_per_byte_unigram": overall["unigram"],
        "share_of_unigram": round(overall["model"] / overall["unigram"], 4),
        "bits_per_byte": {
            language: row["model"] for language, row in evaluation["bits_per_byte"]["by_language"].items()
        },
        "accuracy": {
            language: scores["heldout"]["accuracy"]
            for language, scores in questions["by_language"].items()
            if "heldout" in scores
        },
    }
    if "xz" in overall:
        metrics["bits_per_byte_xz"] = overall["xz"]
    return metrics


def _receipts(context: StageContext) -> dict[str, Receipt]:
    """Receipts of the stages before, for the card."""
    keys = {
        "corpus": f"raw/{context.dataset}/receipt.json",
        "curate": f"curated/{context.dataset}/receipt.json",
        "tokenize": f"models/{context.dataset}/tokens/receipt.json",
        "train": f"models/{context.dataset}/train/receipt.json",
    }
    return {stage: Receipt.from_bytes(context.store.get_bytes(key)) for stage, key in keys.items()}


def _model_keys(context: StageContext) -> dict[str, str]:
    prefix = f"models/{context.dataset}/train/model/"
    return {key.removeprefix(prefix): key for key in sorted(context.inputs) if key.startswith(prefix)}


def _digest(context: StageContext) -> str:
    return model_digest({name: context.inputs[key] for name, key in _model_keys(context).items()})


def _load(context: StageContext) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    context.progress("loading the model")
    folders = {context.fetch(key).parent for key in _model_keys(context).values()}
    if len(folders) != 1:
        raise StageError("training left no model", got=sorted(context.inputs), hint="run the stage `train` again")
    folder = folders.pop()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return cast("Qwen3ForCausalLM", model), cast("PreTrainedTokenizerBase", tokenizer)


def _inputs(context: StageContext, prefix: str, suffix: str) -> list[Path]:
    return [context.fetch(key) for key in sorted(context.inputs) if key.startswith(prefix) and key.endswith(suffix)]


def _heldout_texts(context: StageContext) -> dict[str, list[str]]:
    """Held-out documents by language, up to a limit for each."""
    texts: dict[str, list[str]] = defaultdict(list)
    used: dict[str, int] = defaultdict(int)
    for document in read_documents(_inputs(context, f"curated/{context.dataset}/heldout-", ".parquet")):
        size = len(document.text.encode())
        if used[document.language] + size <= MAX_BYTES_PER_LANGUAGE:
            texts[document.language].append(document.text)
            used[document.language] += size
    if not texts:
        raise StageError("no document is held out", hint="raise corpus.cleaning.heldout_fraction")
    return dict(sorted(texts.items()))


def _bits_per_byte(
    context: StageContext, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Rows of bits per byte by language and over all."""
    from transformers import set_seed

    from training import scoring

    texts = _heldout_texts(context)
    shards = _inputs(context, f"models/{context.dataset}/tokens/train-", ".bin")
    counts = scoring.count_tokens(shards, model.config.vocab_size)
    set_seed(context.plan.recipe.seed)
    untrained = _untrained(context, model)
    length, end = context.plan.model.sequence_length, int(tokenizer.eos_token_id)
    bits: dict[str, dict[str, float]] = {}
    sizes: dict[str, dict[str, int]] = {}
    for done, (language, documents) in enumerate(texts.items()):
        context.progress("bits per byte", done=done, total=len(texts), unit="languages")
        ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
        bits[language] = {
            "model": scoring.model_bits(model, ids, end, length),
            "untrained": scoring.model_bits(untrained, ids, end, length),
            "unigram": scoring.unigram_bits(ids, end, counts),
            "uniform": scoring.uniform_bits(ids, len(counts)),
        }
        if context.profile.corpus.sources:
            bits[language]["xz"] = scoring.xz_bits(documents)
        sizes[language] = {
            "documents": len(documents),
            "bytes": sum(len(text.encode()) for text in documents),
            "tokens": sum(map(len, ids)),
        }
    return {
        "by_language": {language: _row([sizes[language]], [bits[language]]) for language in texts},
        "overall": _row(list(sizes.values()), list(bits.values())),
    }


def _untrained(context: StageContext, model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The model as training began with it: the base, or random weights of the same shape."""
    if context.plan.base is None:
        with model.device:
            return type(model)(model.config)
    from training.base import make_start

    folder = fetch_base(context.store, known_base(context)[1].digest, context.workdir / "base")
    start = make_start(folder, context.plan.model, read_base_tokens(context))
    return cast("Qwen3ForCausalLM", cast("Any", start).to(model.device))


def _row(sizes: Sequence[Mapping[str, int]], bits: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Sums of sizes, and bits per byte of every measure."""
    total = {name: sum(size[name] for size in sizes) for name in sizes[0]}
    return total | {name: round(sum(row[name] for row in bits) / total["bytes"], 4) for name in bits[0]}


def _questions(context: StageContext, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Ask, and count exact answers."""
    from training import scoring

    lines = _read_lines(context.fetch(f"curated/{context.dataset}/questions.jsonl"))
    asked = choose_questions(lines, context.plan.recipe.max_eval_questions)
    if not asked:
        return {"by_language": {}, "by_owner": {}, "overall": {}, "examples": []}
    context.progress("asking questions", total=len(asked), unit="questions")
    longest = max(map(len, tokenizer([question["answer"] for question in asked])["input_ids"]))
    prompts = [question["prompt"] for question in asked]
    answers = scoring.answer_all(model, tokenizer, prompts, max_new_tokens=longest + 2)
    for question, answer in zip(asked, answers, strict=True):
        question["given"] = answer
    return {
        "by_language": _accuracy(asked, "language"),
        "by_owner": _accuracy(asked, "owner"),
        "overall": _accuracy([question | {"all": "all"} for question in asked], "all")["all"],
        "examples": _examples(asked),
    }


def choose_questions(questions: Iterable[dict[str, Any]], max_heldout: int) -> list[dict[str, Any]]:
    """At most `max_heldout` held-out questions of each language and fewer in trained words, drawn by digest."""
    limits = {"heldout": max_heldout, "train": min(TRAINED_QUESTIONS, max_heldout)}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for question in questions:
        groups[question["language"], question["split"]].append(question)
    return [
        question
        for (_, split), group in sorted(groups.items())
        for question in sorted(group, key=lambda item: hashlib.sha256(item["question_id"].encode()).digest())[
            : limits[split]
        ]
    ]


def _accuracy(asked: Sequence[Mapping[str, Any]], by: str) -> dict[str, dict[str, Any]]:
    """Counts of correct answers by a column, for held-out and trained ways to ask."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: {"heldout": [], "trained": []})
    for question in asked:
        split = "heldout" if question["split"] == "heldout" else "trained"
        groups[question[by]][split].append(question["given"] == question["answer"].strip())
    return {
        name: {
            split: {"asked": len(right), "correct": sum(right), "accuracy": round(sum(right) / len(right), 4)}
            for split, right in splits.items()
            if right
        }
        for name, splits in sorted(groups.items())
    }


def _examples(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The first held-out question of each language."""
    first: dict[str, dict[str, str]] = {}
    for question in asked:
        if question["split"] == "heldout":
            columns = ("language", "owner", "question", "answer", "given")
            first.setdefault(question["language"], {column: question[column] for column in columns})
    return list(first.values())


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _record(folder: Path, metrics: Mapping[str, Any], run_id: str | None) -> None:
    """Add the results to the run that training recorded in MLflow, where there is one."""
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri or run_id is None:
        return
    client = open_client(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        for name, value in metrics.items():
            by_language = value if isinstance(value, Mapping) else {"": value}
            for language, number in by_language.items():
                client.log_metric(run_id, f"evaluation/{name}/{language}".rstrip("/"), number)
        client.log_artifacts(run_id, str(folder), "evaluation")
    except MlflowException as error:
        raise TrainingError(f"the results cannot be recorded in MLflow: {error}", got=tracking_uri) from error


def _config(profile: Profile, plan: Plan) -> Mapping[str, Any]:
    return {
        "max_questions": plan.recipe.max_eval_questions,
        "sequence_length": plan.model.sequence_length,
        "seed": plan.recipe.seed,
        "real_text": bool(profile.corpus.sources),
        "description": profile.description,
    }


evaluate = Stage(
    name="evaluate",
    run=_run,
    needs=("curate", "tokenize", "train"),
    config=_config,
    prefix="models/{dataset}/evaluate/",
    version=2,
    external_inputs=base_inputs,
)
