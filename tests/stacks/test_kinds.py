"""What is wrong with an overlay is said before there is a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sovereign.errors import ProfileError
from sovereign.render import Object
from stacks.kinds import check_objects
from tests.stacks.platforms import platform

OBJECT = "apiVersion: {}\nkind: {}\nmetadata: {{name: a, namespace: {}}}\n"
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: mine}\n---\n"
CRD = (
    "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: lamps.example.org}\n"
    "spec: {group: example.org, names: {kind: Lamp}}\n---\n"
)


def definition(kind: str) -> Object:
    """What Kueue brings of the kind."""
    spec = {"group": "kueue.x-k8s.io", "names": {"kind": kind}}
    metadata = {"name": kind.lower()}
    version = "apiextensions.k8s.io/v1"
    return {"apiVersion": version, "kind": "CustomResourceDefinition", "metadata": metadata, "spec": spec}


def check(folder: Path, text: str, name: str = "demo", place: str = "cluster/own.yaml.j2") -> None:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    kinds = ("ResourceFlavor", "ClusterQueue", "LocalQueue", "WorkloadPriorityClass")
    check_objects(replace(platform(name), overlays=(folder,), kueue=lambda: [definition(kind) for kind in kinds]))


@pytest.mark.parametrize(
    "text",
    [
        OBJECT.format("apps/v1", "Deployment", "lake"),
        OBJECT.format("networking.k8s.io/v1", "NetworkPolicy", "serving"),
        OBJECT.format("autoscaling/v2", "HorizontalPodAutoscaler", "default"),
        OBJECT.format("v1", "Secret", "kube-system"),
        NAMESPACE + OBJECT.format("v1", "ConfigMap", "mine"),
        CRD + OBJECT.format("example.org/v1", "Lamp", "lake"),
    ],
)
def test_k12_what_exists_passes(text: str, tmp_path: Path) -> None:
    check(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            OBJECT.format("apps/v1", "Deploymentt", "lake"),
            r"Deploymentt a is of a kind(.|\n)*hint: Deployment\?",
        ),
        (OBJECT.format("v1", "Deployment", "lake").replace("v1", "apps/v9"), "does not exist"),
        (OBJECT.format("example.org/v1", "Lamp", "lake"), "does not exist"),
        (OBJECT.format("v1", "ConfigMap", "lakee"), r"namespace that nothing makes\n  got: lakee"),
    ],
)
def test_k12_what_does_not_exist_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=words):
        check(tmp_path, text)


def test_k12_an_existing_cluster_may_have_more(tmp_path: Path) -> None:
    check(tmp_path, OBJECT.format("example.org/v1", "Lamp", "other"), name="site")
    with pytest.raises(ProfileError, match="does not exist"):
        check(tmp_path, OBJECT.format("batch/v1", "Jobb", "other"), name="site")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("limits.yaml", "would not be read\n  got: limits.yaml\n  expected: a name that ends in .yaml.j2"),
        ("cluster/limits.yaml", "a name that ends in"),
        ("limits.yaml.j2", "a place in cluster, datalake, serving, training"),
        ("data-lake/s3.yaml.j2", "a place in cluster, datalake"),
        ("cluster/deep/a.yaml.j2", "a place in"),
        ("training/jobs.yaml.j2", "one of job.yaml.j2"),
    ],
)
def test_k12_an_overlay_that_would_not_be_read_is_refused(place: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=words):
        check(tmp_path, "", place=place)


@pytest.mark.parametrize(
    "place", ["README.md", ".git/x.yaml", "cluster/.a.yaml.j2.swp", "lib/own.j2", "cluster/own.j2"]
)
def test_k12_other_files_may_lie_there(place: str, tmp_path: Path) -> None:
    check(tmp_path, "", place=place)


def test_k12_braces_of_go_have_a_hint(tmp_path: Path) -> None:
    for text in ("{{ range .Alerts }}", "{{ $labels.x }}", "{{ .Values.a }}", "{{ value }}"):
        with pytest.raises(ProfileError, match=r"own.yaml.j2, line 1(.|\n)*\{% raw %\}"):
            check(tmp_path, text)
