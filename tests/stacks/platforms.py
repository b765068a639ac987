"""Platforms of the shipped profiles with made-up paths, so that what they render to is the same on every machine."""

from __future__ import annotations

from pathlib import Path

from sovereign.plan import plan
from sovereign.profile import EmbeddedTarget, Profile, Source, load_profile
from sovereign.resources import data_path
from sovereign.runtime import Runtime
from sovereign.workload import PodRuntime, ServedModel, embedded_runtime, image_runtime
from stacks.objects import Platform

RUNTIME = Runtime(
    python=Path("/opt/sovereign/runtime/bin/python"),
    digest="0123456789abcdef",
    binds=(Path("/opt/python"), Path("/opt/sovereign/env"), Path("/opt/sovereign/runtime"), Path("/usr")),
)


CHAMPION = ServedModel("c0ffee" * 10 + "c0de", "decade" * 10 + "cede")


def shipped_profile(name: str) -> Profile:
    return load_profile(data_path("templates") / "profiles" / f"{name}.yaml")


def pod_runtime(profile: Profile) -> PodRuntime:
    if isinstance(profile.target, EmbeddedTarget):
        return embedded_runtime(RUNTIME, Path("/site/node/host"), Path("/site/node/volumes"))
    return image_runtime(profile.target)


def platform(
    name: str,
    *,
    overlays: tuple[Path, ...] = (),
    champion: ServedModel | None = CHAMPION,
    sources: tuple[Source, ...] | None = None,
    database_passwords: str | None = None,
) -> Platform:
    """The platform of a shipped profile, with other sources where they are given."""
    profile = shipped_profile(name)
    if sources is not None:
        corpus = profile.corpus.model_copy(update={"sources": sources})
        profile = profile.model_copy(update={"corpus": corpus})
    return Platform(
        profile=profile,
        plan=plan(profile),
        runtime=pod_runtime(profile),
        images={"versitygw": "example.org/versitygw:v0"},
        kueue=list,
        overlays=overlays,
        s3_secret_key="made-up-key",
        champion=champion,
        site="made-up-0123abcd",
        database_passwords=database_passwords,
    )
