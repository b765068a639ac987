"""Tables that a person can act on: the plan, and what `sovereign up` ended with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sovereign.plan import Plan, RunPhase


class Summary(BaseModel):
    """What `sovereign up` ended with."""

    profile: str
    unchanged: bool
    """Nothing had to be done."""
    api: str | None = None
    """Base address of the model server's OpenAI API."""
    model: str | None = None
    """Name of the model there."""
    mlflow: str
    """Address of MLflow."""
    question: str | None = None
    answer: str | None = None
    expected: str | None = None
    metrics: dict[str, dict[str, Any]]
    """Numbers of every stage's receipt."""
    seconds: dict[str, float]
    """Time of every stage, and of the deployments in this run."""
    site: str
    """The site's folder."""
    remove: str
    """Command that removes everything."""


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """What a plan says, for people."""
    model, recipe, estimates, quota = plan.model, plan.recipe, plan.estimates, plan.quota
    where = f"{estimates.num_gpus} GPUs" if estimates.num_gpus else f"{recipe.world_size} CPU processes"
    shape = f"{model.num_layers} layers x {model.hidden_size}, {model.num_heads} heads ({model.num_kv_heads} key/value)"
    interrupted = f" at {estimates.interruptions_per_day:.2g} interruptions a day" if estimates.num_gpus else ""
    ranks = f"{recipe.world_size} ranks x {recipe.micro_batch} sequences x {recipe.grad_accumulation} accumulations"
    rows = [
        ("machines", f"{estimates.num_nodes} nodes, {where}, {quota.num_pods} training pods"),
        ("model", f"{plan.num_parameters:,} parameters: {shape}, vocabulary {model.vocab_size:,}"),
        (
            "training",
            f"{recipe.num_tokens:,} tokens in {recipe.num_steps:,} steps of {model.sequence_length}-token sequences",
        ),
        ("batch", f"{recipe.batch_tokens:,} tokens = {ranks}"),
        ("recipe", f"ZeRO-{recipe.zero_stage}, {recipe.precision}, learning rate {recipe.learning_rate:g}"),
        ("phases", ", ".join(map(_phase, recipe.phases)) + " of the peak"),
        ("memory", f"{estimates.memory_per_device_gb:.1f} of {estimates.memory_limit_gb:.1f} GB on each device"),
        ("speed", f"{estimates.tokens_per_s:,.0f} tokens/s at {estimates.mfu:.0%} MFU"),
        ("MFU from", estimates.mfu_source),
        ("time", _duration(estimates.days)),
        ("energy", f"{estimates.energy_kwh:,.3g} kWh, {estimates.co2_kg:,.3g} kg CO2e"),
        ("cost", f"{estimates.cost:,.2f} {estimates.currency}"),
        ("storage", f"{estimates.storage_gb:,.1f} of {estimates.storage_limit_gb:,.0f} GB"),
        ("checkpoint", f"{estimates.checkpoint_gb:,.2f} GB every {recipe.checkpoint_every_steps:,} steps"),
        ("goodput", f"{estimates.goodput:.1%}{interrupted}"),
    ]
    rows += [("note", note) for note in plan.notes]
    if plan.base is not None and plan.base.known is not None:
        trained = "all weights" if model.num_trained is None else f"{model.num_trained:,} parameters of adapters"
        rows.insert(2, ("base", f"{plan.base.model}, digest {plan.base.known.digest[:12]}; trained: {trained}"))
        if obstacle := plan.base.known.gguf_obstacle:
            rows.insert(3, ("GGUF", f"no export: {obstacle}"))
    return rows


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """What `sovereign up` ended with, for people."""
    rows = []
    if summary.api:
        message = f'{{"role":"user","content":"{summary.question or "…"}"}}'
        body = f'{{"model":"{summary.model}","messages":[{message}],"temperature":0}}'
        rows.append(("API", f"{summary.api}/v1 (OpenAI-compatible)"))
        rows.append(
            ("try it", f"curl -s {summary.api}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
        )
    if summary.answer is not None:
        verdict = "" if summary.expected is None else f" (expected: {summary.expected})"
        rows.append(("asked", f"{summary.question} -> {summary.answer}{verdict}"))
    rows.append(("MLflow", summary.mlflow))
    train, evaluate = summary.metrics.get("train", {}), summary.metrics.get("evaluate", {})
    for label, metrics, names in (
        ("bits per byte", evaluate, ("bits_per_byte_before", "bits_per_byte_after")),
        ("tokens/s", train, ("tokens_per_s",)),
    ):
        values = [
            f"{metrics[name]:,.4f}" if metrics[name] < 100 else f"{metrics[name]:,.0f}"
            for name in names
            if name in metrics
        ]
        if values:
            rows.append((label, " before, ".join(values) + (" after" if len(values) > 1 else "")))
    accuracy = evaluate.get("accuracy", {})
    if accuracy:
        rows.append(("accuracy", ", ".join(f"{language} {share:.1%}" for language, share in sorted(accuracy.items()))))
    rows += [("warning", str(metrics["warning"])) for metrics in summary.metrics.values() if metrics.get("warning")]
    rows.append(("time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary.seconds.items())))
    rows.append(("files", summary.site))
    rows.append(("remove", summary.remove))
    return rows


def _phase(phase: RunPhase) -> str:
    span = phase.learning_rate
    rate = f"{span.start:.0%}" if span.start == span.end else f"{span.start:.0%} to {span.end:.0%}"
    return f"{phase.num_steps:,} steps at {rate}"


def _duration(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    if days * 24 >= 1:
        return f"{days * 24:.1f} hours"
    return f"{days * 24 * 60:.1f} minutes"
