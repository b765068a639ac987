"""Stage `evaluate`: what the trained model knows, measured on documents and questions that it was not trained on.

Writes evaluation.json, contamination.jsonl, the tasks (tasks/), the model card and its plots. evaluation.json holds
    languages       those of the training shards, measured or not
    bits_per_byte   by_language, by_domain (of the document's source), by_domain_and_language, overall; a row
                    has documents, bytes, tokens and bits per byte of `model`, `untrained` (as training began: random
                    weights, or the base), `unigram` and `uniform` (baselines on the same tokenizer) and, for real
                    text, `xz` (`xz -9` on the same documents)
    questions       by_language, by_owner: {<name>: {heldout, trained}}, overall: {heldout, trained}; each has asked,
                    correct, accuracy (0 to 1; exact match of the greedy answer). `heldout` are ways to ask that no
                    training document has. examples: one held-out question of each language and the answer given
    contamination   by_kind, by_language, overall: items of the evaluation, also of the site's tasks, that stand in the
                    documents of the training shards, in part (training/contamination.py); contamination.jsonl has a
                    line for each of them
    memorisation    trained, heldout: how often the model goes on exactly as a document does (training/memorisation.py)
    generation      strategy (greedy: the most likely token at each place, for questions, memorisation and tasks), and
                    ignored_settings: what the model's generation_config.json says beside it
    tasks           {<task>: {samples, version, <metric>}} of lm-evaluation-harness, where the profile names tasks
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
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
from sovereign.store import Store
from training import environment
from training.base_tokenizer import known_base, read_base_tokens
from training.contamination import Item, contamination, document_items, question_items
from training.harness import Tasks, load_tasks, run_tasks, write_tasks
from training.registry import open_client
from training.task_files import OWN, folder_digests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

    from training.shards import Shard

FORMAT = "sovereign/evaluation/v3"
_SPLITS = ("train", "heldout")


def _run(context: StageContext) -> StageOutput:
    environment.prepare(context.workdir, threads=context.plan.recipe.threads, world_size=1)
    from training.card import write_card
    from training.measures import choose_questions

    receipts = _receipts(context)
    folder = context.workdir / "evaluate"
    shutil.rmtree(folder, ignore_errors=True)  # of another run in the same place
    lines = _read_lines(context.fetch(f"curated/{context.dataset}/questions.jsonl"))
    asked = choose_questions(lines, context.plan.recipe.max_eval_questions)
    tasks = _load_tasks(context, asked, folder)
    model, tokenizer = _load(context)
    evaluation = {
        "format": FORMAT,
        "dataset": context.dataset,
        "model_digest": _digest(context),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    } | _measure(context, model, tokenizer, asked, tasks, folder)
    write_atomic(folder / "evaluation.json", json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
    context.progress("writing the model card")
    history = _read_lines(context.fetch(f"models/{context.dataset}/train/metrics.jsonl"))
    write_card(folder, context.profile, context.plan, evaluation, receipts, history)
    metrics = summarise(evaluation)
    _record(folder, metrics, receipts["train"].metrics.get("mlflow_run_id"))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    prefix = f"models/{context.dataset}/evaluate/"
    return StageOutput({prefix + path.relative_to(folder).as_posix(): path for path in files}, metrics)


def _measure(
    context: StageContext,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[dict[str, Any]],
    tasks: Sequence[Tasks],
    folder: Path,
) -> dict[str, Any]:
    """All measures; leaves contamination.jsonl in `folder`."""
    from training import measures
    from training.memorisation import memorisation
    from training.scoring import ignored_settings
    from training.shards import Shard

    recipe, length = context.plan.recipe, context.plan.model.sequence_length
    domains = context.profile.corpus.domains
    documents = measures.choose_documents(read_documents(_curated(context, "heldout")), domains)
    if not documents:
        raise StageError("no document is held out", hint="raise corpus.cleaning.heldout_fraction")
    shards = {split: _inputs(context, f"models/{context.dataset}/tokens/{split}-", ".bin") for split in _SPLITS}
    bits = measures.bits_per_byte(
        model,
        _untrained(context, model),
        tokenizer,
        documents,
        shards=shards["train"],
        length=length,
        with_xz=bool(context.profile.corpus.sources),
        report=lambda done, total: context.progress("bits per byte", done=done, total=total),
    )
    context.progress("asking questions", total=len(asked), unit="questions")
    questions = measures.answer_questions(model, tokenizer, asked)
    context.progress("looking for evaluation items in the training text")
    trained, unseen = ([Shard(path) for path in shards[split]] for split in _SPLITS)
    heldout = [document for found in documents.values() for document in found]
    items = [*question_items(asked), *document_items(heldout), *_task_items(tasks)]
    counts = _contamination(context, items, trained, folder)
    context.progress("trying to extract training documents")
    recited = memorisation(model, trained, unseen, int(tokenizer.eos_token_id), recipe.seed)
    results: dict[str, Any] = {}
    for one in tasks:
        context.progress(f"running {', '.join(one.loaded['tasks'])}")
        results |= run_tasks(model, tokenizer, one)
    return {
        "languages": sorted({language for shard in trained for language in shard.by_language(shard.lengths)}),
        "bits_per_byte": bits,
        "questions": questions,
        "contamination": counts,
        "memorisation": recited,
        "generation": {"strategy": "greedy", "ignored_settings": ignored_settings(model)},
        "tasks": results,
    }


def _contamination(
    context: StageContext, items: Sequence[Item], shards: Sequence[Shard], folder: Path
) -> dict[str, Any]:
    """Counts; the items themselves go to contamination.jsonl. A mix may leave documents out of the shards."""
    documents = read_documents(_curated(context, "train"))
    if context.profile.mix is not None:
        taken = {name for shard in shards for name in shard.document_ids(range(shard.num_documents))}
        documents = (document for document in documents if document.doc_id in taken)
    counts, rows = contamination(items, documents)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(folder / "contamination.jsonl", text)
    return counts


def _task_items(tasks: Sequence[Tasks]) -> list[Item]:
    """Of the site's tasks; the kit's own ask the held-out questions."""
    return [item for one in tasks for item in one.items() if not item.kind.startswith(OWN)]


def _load_tasks(context: StageContext, asked: Sequence[Mapping[str, Any]], folder: Path) -> list[Tasks]:
    """Write the kit's own tasks, and load those that the profile names, before anything is computed."""
    wanted, site_folder = context.profile.evaluation.tasks, context.profile.evaluation.task_folder
    write_tasks(folder / "tasks", asked)
    cache = context.workdir / "cache" / "harness"
    loaded = []
    for place, is_own in ((str(folder / "tasks"), True), (site_folder, False)):
        names = [name for name in wanted if name.startswith(OWN) == is_own]
        if names and place is not None:
            context.progress(f"loading {', '.join(names)}")
            loaded.append(load_tasks(Path(place), names, cache))
    return loaded


def summarise(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of evaluation.json that the receipt, MLflow and the summary show."""
    bits, questions = evaluation["bits_per_byte"], evaluation["questions"]
    overall, contaminated = bits["overall"], evaluation["contamination"]
    metrics = {
        "bits_per_byte_before": overall["untrained"],
        "bits_per_byte_after": overall["model"],
        "bits_per_byte_unigram": overall["unigram"],
        "share_of_unigram": round(overall["model"] / overall["unigram"], 4),
        "bits_per_byte": {language: row["model"] for language, row in bits["by_language"].items()},
        "bits_per_byte_by_domain": {domain: row["model"] for domain, row in bits["by_domain"].items()},
        "accuracy": {
            language: scores["heldout"]["accuracy"]
            for language, scores in questions["by_language"].items()
            if "heldout" in scores
        },
        "contamination": {kind: row["share"] for kind, row in contaminated["by_kind"].items()},
        "memorisation": {name: evaluation["memorisation"][name]["rate"] for name in ("trained", "heldout")},
        "tasks": {
            f"{task}/{metric}": value
            for task, row in evaluation["tasks"].items()
            for metric, value in row.items()
            if metric not in ("samples", "version")
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


def _untrained(context: StageContext, model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The model as training began with it: the base, or random weights of the same shape."""
    if context.plan.base is None:
        from transformers import set_seed

        set_seed(context.plan.recipe.seed)
        with model.device:
            return type(model)(model.config)
    from training.base import make_start

    folder = fetch_base(context.store, known_base(context)[1].digest, context.workdir / "base")
    start = make_start(folder, context.plan.model, read_base_tokens(context))
    return cast("Qwen3ForCausalLM", cast("Any", start).to(model.device))


def _curated(context: StageContext, split: str) -> list[Path]:
    return _inputs(context, f"curated/{context.dataset}/{split}-", ".parquet")


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
            by_part = value if isinstance(value, Mapping) else {"": value}
            for part, number in by_part.items():
                if number is not None:
                    client.log_metric(run_id, f"evaluation/{name}/{part}".rstrip("/"), number)
        client.log_artifacts(run_id, str(folder), "evaluation")
    except MlflowException as error:
        raise TrainingError(f"the results cannot be recorded in MLflow: {error}", got=tracking_uri) from error


def _config(profile: Profile, plan: Plan) -> Mapping[str, Any]:
    named = {source.name: source.domain for source in profile.corpus.sources if source.domain}
    return {
        "max_questions": plan.recipe.max_eval_questions,
        "sequence_length": plan.model.sequence_length,
        "seed": plan.recipe.seed,
        "real_text": bool(profile.corpus.sources),
        "description": profile.description,
        "tasks": list(profile.evaluation.tasks),
        **({"domains": named} if named else {}),
    }


def _external_inputs(profile: Profile, store: Store) -> Mapping[str, str]:
    return {**base_inputs(profile, store), **folder_digests(profile)}


evaluate = Stage(
    name="evaluate",
    run=_run,
    needs=("curate", "tokenize", "train"),
    config=_config,
    prefix="models/{dataset}/evaluate/",
    version=6,
    external_inputs=_external_inputs,
)
