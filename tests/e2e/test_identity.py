"""Objects whose resource moves, a second site on one cluster, and repairs, on a site that the command line deployed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from sovereign.render import Object
from sovereign.resources import data_path
from sovereign.site import init_site
from stacks.fields import ObjectRef
from stacks.identity import SITE, STACK, identity
from stacks.objects import STACKS
from stacks.state import read_state
from tests.e2e.node_fixture import config_map
from tests.e2e.site_fixture import LiveSite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MLFLOW = (
    ObjectRef("v1", "Service", "mlflow", "lake"),
    ObjectRef("apps/v1", "Deployment", "mlflow", "lake"),
    ObjectRef("v1", "PersistentVolumeClaim", "mlflow", "lake"),
)


@pytest.fixture(scope="module")
def deployed(live: LiveSite) -> LiveSite:
    """The session's site with all stacks deployed; without a champion the model server has no pods."""
    live.run("deploy")
    return live


@pytest.fixture
def clean(deployed: LiveSite) -> Iterator[LiveSite]:
    """The site, whose overlays and profile are as before after the test."""
    profile = deployed.site.profile_path.read_text()
    yield deployed
    deployed.site.profile_path.write_text(profile)
    overlays(deployed, {})
    deployed.run("deploy")
    deployed.run("status")


def overlays(live: LiveSite, files: dict[str, list[Object]]) -> None:
    """Make `files` (folder/name to objects) all that the site has of its own."""
    shutil.rmtree(live.site.overlays_dir)
    for name, items in files.items():
        path = live.site.overlays_dir / f"{name}.yaml.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{% raw %}\n" + yaml.safe_dump_all(items) + "{% endraw %}\n")
    live.site.overlays_dir.mkdir(exist_ok=True)


def uids(live: LiveSite, *items: Object | ObjectRef) -> list[str | None]:
    cluster = live.cluster
    found = [cluster.get(item) for item in items]
    cluster.close()
    return [None if one is None else str(one["metadata"]["uid"]) for one in found]


def owner(live: LiveSite, item: Object) -> tuple[str | None, str | None]:
    cluster = live.cluster
    metadata = (cluster.get(item) or {"metadata": {}})["metadata"]
    cluster.close()
    return (metadata.get("labels") or {}).get(SITE), (metadata.get("annotations") or {}).get(STACK)


def holders(live: LiveSite, item: Object) -> list[str]:
    """The stacks whose state has the object."""
    return [
        stack
        for stack in STACKS
        if identity(item) in {record.ref.identity for record in read_state(live.site, stack).records}
    ]


def steps(live: LiveSite, *arguments: str) -> dict[str, set[str]]:
    """Objects by operation of a deploy or preview."""
    found: dict[str, set[str]] = {}
    for stack in json.loads(live.run(*arguments, "--json"))["stacks"]:
        for operation, name, _ in stack["steps"]:
            found.setdefault(operation, set()).add(name)
    return found


# --- K1: an object whose resource moves ----------------------------------------------------------------------------


def test_k1_objects_move_between_files_parts_and_extras_with_their_uid(clean: LiveSite) -> None:
    one, two = config_map("lake", "one", a="1"), config_map("lake", "two", a="1")
    overlays(clean, {"datalake/first": [one, two]})
    clean.run("deploy", "--stack", "datalake")
    before = uids(clean, one, two, *MLFLOW)
    # (1) From file to file, and a shipped template (a part) split in two: what is new by name is the part `extras`.
    shipped = (data_path("templates") / "datalake" / "mlflow.yaml.j2").read_text()
    header, *documents = shipped.split("\n---\n")
    imports = "\n".join(line for line in header.splitlines() if line.startswith("{% import"))
    overlays(clean, {"datalake/second": [one], "datalake/third": [{**two, "data": {"a": "2"}}]})
    folder = clean.site.overlays_dir / "datalake"
    (folder / "mlflow.yaml.j2").write_text("\n---\n".join([imports, *documents[1:]]))
    (folder / "mlflow-more.yaml.j2").write_text("\n---\n".join([header, documents[0]]))
    planned = steps(clean, "preview", "--stack", "datalake")
    assert not {"create", "delete", "replace", "delete-replaced", "create-replacement"} & planned.keys(), planned
    clean.run("deploy", "--stack", "datalake")
    assert uids(clean, one, two, *MLFLOW) == before and None not in before
    assert (clean.cluster.get(two) or {})["data"] == {"a": "2"}
    # (2) And back, from extras to a part.
    overlays(clean, {"datalake/first": [one, two]})
    clean.run("deploy", "--stack", "datalake")
    assert uids(clean, one, two, *MLFLOW) == before
    clean.run("status")


@pytest.mark.drill
@pytest.mark.parametrize("source", ["cluster", "datalake", "serving"])
def test_k1_objects_move_between_stacks_in_both_orders_and_deploys_of_one_stack(clean: LiveSite, source: str) -> None:
    old_first, new_first, at_once, back = (config_map("lake", f"{source}-{n}", a=str(n)) for n in range(4))
    targets = [stack for stack in STACKS if stack != source]
    moved = [old_first, new_first, at_once, back]
    overlays(clean, {f"{source}/own": moved})
    clean.run("deploy", "--stack", source)
    before = uids(clean, *moved)
    assert None not in before
    target = targets[0]
    # (1) Only the old stack is deployed: it holds the object until the new one comes.
    overlays(clean, {f"{source}/own": [new_first, at_once, back], f"{target}/own": [old_first]})
    clean.run("deploy", "--stack", source)
    assert uids(clean, *moved) == before and holders(clean, old_first) == [source]
    clean.run("deploy", "--stack", target)
    assert uids(clean, *moved) == before and holders(clean, old_first) == [target]
    # (2) Only the new one is deployed: the old one forgets it at once and does not delete it later.
    overlays(clean, {f"{source}/own": [at_once, back], f"{target}/own": [old_first, new_first]})
    planned = steps(clean, "preview")
    assert planned["move"] == {f"ConfigMap/lake/{source}-1"} and planned.keys() <= {"move", "update"}
    clean.run("deploy", "--stack", target)
    assert holders(clean, new_first) == [target]
    clean.run("deploy", "--stack", source)
    assert uids(clean, *moved) == before
    # (3) Everything at once, to both other stacks, one of which is deployed before the old one or both after it.
    overlays(clean, {f"{targets[0]}/own": [old_first, new_first, at_once], f"{targets[1]}/own": [back]})
    clean.run("deploy")
    assert uids(clean, *moved) == before
    assert [owner(clean, item)[1] for item in moved] == [targets[0]] * 3 + [targets[1]]
    clean.run("status")
    # (4) And back, with other content.
    overlays(clean, {f"{source}/own": [*moved[:3], {**back, "data": {"a": "new"}}]})
    clean.run("deploy")
    assert uids(clean, *moved) == before and (clean.cluster.get(back) or {})["data"] == {"a": "new"}
    clean.run("status")


@pytest.mark.drill
def test_k1_destroy_of_a_stack_leaves_what_moved_away_and_takes_what_it_still_holds(clean: LiveSite) -> None:
    gone, waits = config_map("lake", "moved-away", a="1"), config_map("lake", "still-held", a="1")
    overlays(clean, {"serving/own": [gone, waits]})
    clean.run("deploy", "--stack", "serving")
    before = uids(clean, gone)
    overlays(clean, {"datalake/own": [gone], "cluster/own": [waits]})
    clean.run("deploy", "--stack", "datalake")
    clean.run("destroy", "--stack", "serving")
    assert uids(clean, gone, waits) == [*before, None], "the cluster stack was not deployed since"
    clean.run("deploy")
    assert uids(clean, gone) == before and None not in uids(clean, waits)


@pytest.mark.drill
def test_k1_two_stacks_that_make_one_object_are_refused_before_anything(clean: LiveSite) -> None:
    item = config_map("lake", "twice", a="1")
    overlays(clean, {"datalake/own": [item], "cluster/own": [item]})
    for command in ("preview", "deploy"):
        assert "the stacks cluster and datalake both make ConfigMap/lake/twice" in clean.refused(command)
    assert uids(clean, item) == [None]


@pytest.mark.drill
def test_k1_other_version_of_an_api_is_the_same_object_and_another_namespace_is_not(clean: LiveSite) -> None:
    target = {"kind": "Deployment", "name": "mlflow", "apiVersion": "apps/v1"}
    scaler: Object = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scale", "namespace": "serving"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {**target, "name": "nobody"}},
    }
    queue: Object = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "ResourceFlavor",
        "metadata": {"name": "extra"},
    }
    setting = config_map("lake", "place", a="1")
    overlays(clean, {"serving/own": [scaler], "cluster/own": [queue], "datalake/own": [setting]})
    clean.run("deploy")
    before = uids(clean, scaler, queue)
    newer = [{**scaler, "apiVersion": "autoscaling/v2"}, {**queue, "apiVersion": "kueue.x-k8s.io/v1beta2"}]
    elsewhere = config_map("serving", "place", a="1")
    # The newer ones in other files and another stack at the same time.
    overlays(clean, {"cluster/new": newer, "datalake/own": [elsewhere]})
    clean.run("deploy")
    assert uids(clean, *newer) == before and None not in before
    assert uids(clean, setting)[0] is None and uids(clean, elsewhere)[0] is not None
    clean.run("status")


_PACKAGE = """
import pulumi
from stacks import objects as parts
from stacks.components import Component
from stacks.objects import KEEP
from stacks.resources import Manifest

class Registry(Component):
    @staticmethod
    def objects(platform):
        return parts.mlflow(platform)

class Renamed(pulumi.ComponentResource):
    '''The same objects under names of its own, where each name stood for another object before.'''
    order = 1

    def __init__(self, name, args, opts=None):
        super().__init__("ministry:index:Renamed", name, None, opts)
        items = self.objects(args.platform)
        for number, item in enumerate(items):
            keep = item["metadata"].get("annotations", {}).get(KEEP) == "data"
            Manifest(f"mine-{(number + self.order) % len(items)}", item, kubeconfig=args.connection.kubeconfig,
                     context=args.connection.context, cluster_uid=args.connection.cluster_uid, keep=keep,
                     opts=pulumi.ResourceOptions(parent=self))
        self.register_outputs({})

    @staticmethod
    def objects(platform):
        return [i for i in parts.mlflow(platform) if i["kind"] not in ("PersistentVolume", "PersistentVolumeClaim")]
"""


@pytest.mark.drill
def test_k1_replaced_component_and_other_pulumi_names_keep_the_objects(
    clean: LiveSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "ministry_site-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ministry-site\nVersion: 1\n")
    before = uids(clean, *MLFLOW)

    def replace_by(name: str, source: str = _PACKAGE) -> None:
        (tmp_path / "ministry_site.py").write_text(source)
        (information / "entry_points.txt").write_text(f"[sovereign.components]\nmlflow = ministry_site:{name}\n")
        clean.run("deploy", "--stack", "datalake")
        assert uids(clean, *MLFLOW) == before, name

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    try:
        replace_by("Registry")
        replace_by("Renamed")
        replace_by("Renamed", _PACKAGE.replace("order = 1", "order = 2"))
        clean.run("status", "--stack", "cluster", "--stack", "serving")
    finally:
        monkeypatch.delenv("PYTHONPATH")
    clean.run("deploy", "--stack", "datalake")
    assert uids(clean, *MLFLOW) == before


# --- K2: two sites -------------------------------------------------------------------------------------------------


@pytest.fixture
def second(deployed: LiveSite, tmp_path: Path) -> LiveSite:
    """Another site whose target is the cluster of the first."""
    kubeconfig = deployed.site.node_dir / "admin.conf"
    context = yaml.safe_load(kubeconfig.read_text())["current-context"]
    document = yaml.safe_load((data_path("templates") / "profiles" / "ci.yaml").read_text())
    document["target"] = {"kind": "kubeconfig", "path": str(kubeconfig), "context": context, "image": "example.org/x:1"}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(document))
    return LiveSite(init_site(tmp_path / "second", tmp_path / "profile.yaml"))


def test_k2_a_second_site_is_refused_and_changes_nothing(deployed: LiveSite, second: LiveSite) -> None:
    deployed.run("deploy")
    before = {stack: read_state(second.site, stack) for stack in STACKS}
    for command in (["preview"], ["deploy"], ["deploy", "--stack", "serving"]):
        text = second.refused(*command)
        assert f"used by another site, {deployed.site.id}" in text and "--adopt" in text
    assert "nothing is deployed to the cluster yet" in second.refused("train")
    assert {stack: read_state(second.site, stack) for stack in STACKS} == before
    second.run("destroy", "--delete-data")
    deployed.run("status")


@pytest.mark.drill
def test_k2_an_adopted_object_is_not_the_first_sites_any_more(clean: LiveSite, second: LiveSite) -> None:
    """Only cluster-scoped and shared things differ for the second; the rest would need its image."""
    mine = config_map("lake", "shared", a="1")
    overlays(clean, {"datalake/own": [mine]})
    clean.run("deploy", "--stack", "datalake")
    cluster = clean.cluster
    other = config_map("lake", "shared", a="1")
    other["metadata"] |= {"labels": {SITE: second.site.id}, "annotations": {STACK: "datalake"}}
    cluster.apply(other)
    (before,) = uids(clean, mine)
    assert f"used by another site, {second.site.id}" in clean.refused("deploy")
    assert f"used by another site, {second.site.id}" in clean.refused("preview")
    assert "used by" not in clean.run("preview", "--adopt")
    overlays(clean, {})
    clean.run("deploy", "--stack", "datalake")
    assert uids(clean, mine) == [before], "the first site deleted the second one's object"
    cluster.delete(mine)
    cluster.close()


# --- K3: repairs ---------------------------------------------------------------------------------------------------


def managed_objects(live: LiveSite) -> dict[str, list[ObjectRef]]:
    """Managed objects by kind."""
    found: dict[str, list[ObjectRef]] = {}
    for stack in STACKS:
        for record in read_state(live.site, stack).records:
            found.setdefault(record.ref.kind, []).append(record.ref)
    return found


@pytest.mark.drill
def test_k3_one_deploy_heals_deletions_of_every_kind(clean: LiveSite) -> None:
    """One object of each kind but namespaces and definitions, whose deletion takes others with it, all at once."""
    cluster = clean.cluster
    for kind, refs in managed_objects(clean).items():
        if kind not in ("Namespace", "CustomResourceDefinition"):
            cluster.begin_delete(refs[-1])
    clean.run("deploy")
    clean.run("status")
    cluster.close()


@pytest.mark.drill
@pytest.mark.parametrize("name", ["lake", "training", "serving", "kueue-system"])
def test_k3_one_deploy_heals_a_deleted_namespace_with_its_data(clean: LiveSite, name: str) -> None:
    marker = clean.site.node_dir / "volumes" / "objects" / "raw" / "kept"
    marker.write_text("data")
    cluster = clean.cluster
    cluster.begin_delete(ObjectRef("v1", "Namespace", name))
    clean.run("deploy")
    clean.run("status")
    assert marker.read_text() == "data"
    cluster.close()


@pytest.mark.drill
@pytest.mark.parametrize("name", ["clusterqueues", "localqueues", "workloads", "resourceflavors"])
def test_k3_one_deploy_heals_a_deleted_definition(clean: LiveSite, name: str) -> None:
    cluster = clean.cluster
    cluster.begin_delete(ObjectRef("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{name}.kueue.x-k8s.io"))
    clean.run("deploy")
    clean.run("status")
    cluster.close()


@pytest.mark.drill
@pytest.mark.parametrize("deleted", ["claim", "volume", "both"])
def test_k3_one_deploy_heals_a_claim_or_volume_that_was_deleted_in_use(clean: LiveSite, deleted: str) -> None:
    cluster = clean.cluster
    if deleted in ("claim", "both"):
        cluster.begin_delete(ObjectRef("v1", "PersistentVolumeClaim", "objects", "lake"))
    if deleted in ("volume", "both"):
        cluster.begin_delete(ObjectRef("v1", "PersistentVolume", "lake-objects"))
    clean.run("deploy")
    clean.run("status")
    assert (cluster.get(ObjectRef("v1", "PersistentVolume", "lake-objects")) or {})["status"]["phase"] == "Bound"
    cluster.wait_ready(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s3", "namespace": "lake"}}, 120
    )
    cluster.close()


# --- K4 and K6 through the command line ----------------------------------------------------------------------------


@pytest.mark.drill
def test_k4_more_storage_in_the_profile_blocks_nothing(clean: LiveSite) -> None:
    overlays(clean, {"datalake/zzz": [config_map("lake", "the-rest", a="1")]})
    shipped = (data_path("templates") / "datalake" / "s3.yaml.j2").read_text()
    more = shipped.replace("storage.objects_gb", "77")
    (clean.site.overlays_dir / "datalake" / "s3.yaml.j2").write_text(more)
    result = json.loads(clean.run("deploy", "--json"))
    (warning,) = {text for stack in result["stacks"] for text in stack["warnings"]}
    assert "PersistentVolumeClaim lake/objects keeps its" in warning and "77G were asked for" in warning
    assert uids(clean, config_map("lake", "the-rest")) != [None]
    assert "77G" in json.loads(clean.run("status", "--json"))["notes"][0]


@pytest.mark.drill
def test_k6_additions_to_a_managed_deployment_are_named_and_removed(clean: LiveSite) -> None:
    ref = ObjectRef("apps/v1", "Deployment", "mlflow", "lake")
    cluster = clean.cluster
    api = client.AppsV1Api(config.new_client_from_config(str(clean.site.node_dir / "admin.conf")))  # type: ignore[no-untyped-call]
    extra: Object = {
        "containers": [
            {"name": "miner", "image": "x:1"},
            {"name": "mlflow", "env": [{"name": "EXTRA", "value": "1"}]},
        ],
        "volumes": [{"name": "extra", "emptyDir": {}}],
    }
    body = {"spec": {"template": {"spec": extra}}}
    api.patch_namespaced_deployment("mlflow", "lake", body, field_manager="kubectl-patch")
    text = clean.run("status", code=3)
    assert "miner" in text and "extra" in text and "EXTRA" in text
    clean.run("deploy")
    spec = (cluster.get(ref) or {})["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]] == ["mlflow"]
    assert "extra" not in {one["name"] for one in spec["volumes"]}
    assert "EXTRA" not in {one["name"] for one in spec["containers"][0]["env"]}
    clean.run("status")
    cluster.close()
