"""Stage `register`: the trained model becomes a version in the MLflow registry, and the champion if it is good enough.

The registered artifact is a Hugging Face folder (safetensors, tokenizer, model card). A model is known by the digest of
its files: the same digest is never registered twice. What is served is in the store under that digest, since the next
training overwrites the last one's output. MLFLOW_TRACKING_URI names the registry.

The order is (1) the model's files in the store, and those that llama.cpp serves it from (training/served.py), (2) a
version that names them, (3) registration.json and the receipt, (4) the aliases. Files of earlier models stay until
`sovereign prune` (training/prune.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign.base import base_inputs, base_tags
from sovereign.display import escape_markdown
from sovereign.errors import StageError, TrainingError
from sovereign.files import sha256_file, write_atomic
from sovereign.plan import Plan
from sovereign.profile import Profile
from sovereign.receipts import Receipt
from sovereign.serving.fetch import model_digest
from sovereign.stages import Stage, StageContext, StageOutput, receipt_key
from training.gate import LIMITS, why_not_champion
from training.manifest import METRICS
from training.registry import CANDIDATE, CHAMPION, experiment_id, open_client
from training.tracking import send_missing

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def _run(context: StageContext) -> StageOutput:
    tracking_uri = _tracking_uri()
    model = _model_files(context)
    digest = model_digest({name: context.inputs[key] for name, key in model.items()})
    prefix = f"models/{context.dataset}/register/{digest}/"
    files = {prefix + name: context.inputs[key] for name, key in model.items()}
    evaluation = json.loads(context.fetch(_evaluation_prefix(context) + "evaluation.json").read_bytes())
    refusal = why_not_champion(evaluation, context.profile.evaluation)
    for name, key in model.items():
        context.progress(f"storing {name} for serving")
        context.store.put_file(prefix + name, context.fetch(key))
    served = _store_served(context, model, digest)
    gguf_digest = model_digest(served) if served else None
    files_served = {_served_prefix(context, digest) + name: value for name, value in served.items()}
    client = open_client(tracking_uri)
    context.progress("looking for this model in the registry")
    version = _registered_version(client, context.dataset, digest)
    is_new = version is None
    if version is None:
        context.progress("storing the model in the registry")
        tags = {"digest": digest, "files": json.dumps(files), "store_prefix": prefix}
        tags |= _receipt_tags(context) | base_tags(context.profile)
        tags |= {"gguf_digest": gguf_digest} if gguf_digest else {}
        version = _register(client, context, _gather(context, model), f"model-{digest[:12]}", tags)
    elif gguf_digest:
        client.set_model_version_tag(context.dataset, str(version), "gguf_digest", gguf_digest)
    aliases = [CANDIDATE] if refusal is not None else [CANDIDATE, CHAMPION]
    registration = {
        "name": context.dataset,
        "version": version,
        "digest": digest,
        "aliases": aliases,
        "files": files,
        "store_prefix": prefix,
        "gguf_digest": gguf_digest,
    } | base_tags(context.profile)
    path = context.workdir / "registration.json"
    write_atomic(path, json.dumps(registration, indent=2, sort_keys=True) + "\n")
    metrics: dict[str, Any] = {"version": version, "digest": digest, "aliases": aliases, "is_new": is_new}
    if refusal is not None:
        metrics["why_not_champion"] = refusal
        context.progress(f"registered as {CANDIDATE} only: {refusal}")
    return StageOutput({registration_key(context.dataset): path}, metrics, stored=files | files_served)


def _store_served(context: StageContext, model: Mapping[str, str], digest: str) -> dict[str, str]:
    """Store the folder that llama.cpp serves the model from; hex SHA-256 of its files by name, if it has one."""
    from training.served import gguf_obstacle, make_served

    if context.profile.serving.engine != "llama.cpp":
        return {}
    folder = _gather(context, model)
    if (obstacle := gguf_obstacle(folder)) is not None:
        context.progress(f"served by transformers, not by llama.cpp: {obstacle}")
        return {}

    def report(text: str, _share: float) -> None:
        context.progress(f"GGUF file for serving: {text}")

    made = make_served(folder, context.workdir / "served", name=context.dataset, report=report)
    for name, path in made.items():
        context.store.put_file(_served_prefix(context, digest) + name, path)
    return {name: sha256_file(path) for name, path in made.items()}


def _served_prefix(context: StageContext, digest: str) -> str:
    """Store key of the served folder: beside the model's, which its digest is of."""
    return f"models/{context.dataset}/register/{digest}.served/"


def _publish(context: StageContext, receipt: Receipt) -> None:
    """Point `candidate`, and `champion` when the gate let it through, at the registered version."""
    from mlflow.exceptions import MlflowException

    client = open_client(_tracking_uri())
    name, version = context.dataset, int(receipt.metrics["version"])
    try:
        client.set_registered_model_alias(name, CANDIDATE, str(version))
        held = client.get_registered_model(name).aliases.get(CHAMPION)
        if CHAMPION in receipt.metrics["aliases"]:
            client.set_registered_model_alias(name, CHAMPION, str(version))
        elif held is not None and int(held) == version:  # the profile asks for more now
            client.delete_registered_model_alias(name, CHAMPION)
    except MlflowException as error:
        raise TrainingError(
            f"the aliases of model {name} cannot be set: {error}",
            hint="run the command again; if version "
            f"{version} was deleted in the registry, delete {receipt_key(register, name)} in the store before",
        ) from error


def registration_key(name: str) -> str:
    """Store key of what model `name` was registered as last."""
    return f"models/{name}/register/registration.json"


def _tracking_uri() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise StageError(
            "no model registry is named",
            expected="MLFLOW_TRACKING_URI in the environment, e.g. http://mlflow.lake.svc:5000 or sqlite:////data/mlflow.db",
        )
    return uri


def _model_files(context: StageContext) -> dict[str, str]:
    """Store keys of the trained model's files, by their names in its folder."""
    prefix = f"models/{context.dataset}/train/model/"
    files = {key.removeprefix(prefix): key for key in sorted(context.inputs) if key.startswith(prefix)}
    if not files:
        raise StageError(f"training left no model under {prefix}", hint="run the stage `train` again")
    return files


def _evaluation_prefix(context: StageContext) -> str:
    return f"models/{context.dataset}/evaluate/"


def _registered_version(client: MlflowClient, name: str, digest: str) -> int | None:
    """The version that has the digest already."""
    found = client.search_model_versions(f"name = '{name}' and tags.digest = '{digest}'")
    return max((int(version.version) for version in found), default=None)


def _receipt_tags(context: StageContext) -> dict[str, str]:
    """The keys of the receipts that lead to this model."""
    return {
        f"receipt.{stage}": Receipt.from_bytes(
            context.store.get_bytes(f"models/{context.dataset}/{stage}/receipt.json")
        ).key
        for stage in ("train", "evaluate")
    }


def _gather(context: StageContext, model: Mapping[str, str]) -> Path:
    """A folder with the model's files and its card."""
    folder = context.workdir / "registered-model"
    shutil.rmtree(folder, ignore_errors=True)
    card = _evaluation_prefix(context)
    pages = {key.removeprefix(card): key for key in context.inputs if key.startswith(card)}
    wanted = dict(model) | {name: key for name, key in pages.items() if name.endswith((".md", ".png"))}
    for name, key in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(context.fetch(key), folder / name)
    return folder


def _adapter(context: StageContext) -> list[Path]:
    """Files of the adapter that the model was merged from, if any; in the model's folder they would be loaded again."""
    prefix = f"models/{context.dataset}/train/adapter/"
    return [context.fetch(key) for key in sorted(context.inputs) if key.startswith(prefix)]


def _register(
    client: MlflowClient, context: StageContext, folder: Path, artifact_path: str, tags: Mapping[str, str]
) -> int:
    """Store the folder as artifacts of the training run and make a version of it."""
    from mlflow.exceptions import MlflowException

    name = context.dataset
    try:
        run_id = _training_run(client, context)
        _send_missing_metrics(client, context, run_id)
        client.log_artifacts(run_id, str(folder), artifact_path)
        for path in _adapter(context):
            client.log_artifact(run_id, str(path), f"adapter-{tags['digest'][:12]}")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=escape_markdown(context.profile.description) or None)
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact_path}"
        version = client.create_model_version(name, source=source, run_id=run_id, tags=dict(tags))
    except MlflowException as error:
        raise TrainingError(f"the model cannot be registered: {error}") from error
    return int(version.version)


def _training_run(client: MlflowClient, context: StageContext) -> str:
    """The run that training recorded, or a new one when it had no registry to record in."""
    receipt = Receipt.from_bytes(context.store.get_bytes(f"models/{context.dataset}/train/receipt.json"))
    run_id = receipt.metrics.get("mlflow_run_id")
    if run_id is not None and client.search_runs(_experiments(client), f"attributes.run_id = '{run_id}'"):
        return str(run_id)
    run = client.create_run(
        experiment_id(client, context.dataset),
        run_name=f"{context.dataset} registration",
        tags={"receipt": receipt.key},
    )
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _send_missing_metrics(client: MlflowClient, context: StageContext, run_id: str) -> None:
    """The numbers of training that MLflow did not take while it ran."""
    receipt = Receipt.from_bytes(context.store.get_bytes(f"models/{context.dataset}/train/receipt.json"))
    key = f"models/{context.dataset}/train/{METRICS}"
    if receipt.metrics.get("mlflow_complete") or key not in context.inputs:
        return
    context.progress("sending training's numbers to MLflow")
    send_missing(client, run_id, [json.loads(line) for line in context.fetch(key).read_text().splitlines()])


def _experiments(client: MlflowClient) -> list[str]:
    return [experiment.experiment_id for experiment in client.search_experiments()]


def _config(profile: Profile, _plan: Plan) -> Mapping[str, Any]:
    limits = profile.evaluation.model_dump(mode="json", include=set(LIMITS))
    return limits | {"engine": profile.serving.engine}


register = Stage(
    name="register",
    run=_run,
    needs=("train", "evaluate"),
    config=_config,
    prefix="models/{dataset}/register/",
    external_inputs=base_inputs,
    version=4,
    append_only="models/{dataset}/register/*/*",
    publish=_publish,
)
