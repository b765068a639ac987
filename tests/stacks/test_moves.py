"""Which stack has an object, which one declares it, and what becomes of it. No cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign.errors import ProfileError, SiteError
from sovereign.render import Object
from sovereign.site import Site, init_site
from stacks.fields import ObjectRef
from stacks.identity import Owner, identity, owned, read_declared, write_declared
from stacks.moves import Moves, without
from stacks.objects import managed, resource_name
from stacks.state import state_file
from tests.stacks.platforms import platform

ITEM: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "lake"}}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "apiVersion: sovereign/v1\nname: made-up\ncorpus: {demonstration: {}}\n"
        "model: {parameters: 1.0e+6}\ntraining: {tokens: 1.0e+5}\n"
    )
    return init_site(tmp_path / "site", profile)


def declare(site: Site, stack: str, *items: Object) -> Any:
    """The demo's platform with objects of the site's own in `stack`."""
    path = site.overlays_dir / stack / "own.yaml.j2"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump_all(items))
    return replace(platform("demo"), overlays=(site.overlays_dir,), site=site.id)


def record(site: Site, stack: str, *items: Object) -> None:
    resources = [
        {"urn": f"urn:{stack}::{resource_name(item)}", "type": "sovereign:index:Manifest", "inputs": {"manifest": item}}
        for item in items
    ]
    state_file(site, stack).parent.mkdir(parents=True, exist_ok=True)
    state_file(site, stack).write_text(json.dumps({"checkpoint": {"latest": {"resources": resources}}}))


def test_k1_the_old_stack_holds_an_object_until_the_new_one_has_it(site: Site) -> None:
    record(site, "datalake", ITEM)
    moves = Moves(site, declare(site, "serving", ITEM))
    assert [item.ref for item in moves.ledger("datalake").held] == [ObjectRef.of(ITEM)]
    assert moves.arrivals("serving") == {"ConfigMap/lake/a"} and moves.ledger("serving").held == ()
    record(site, "serving", ITEM)
    assert moves.ledger("datalake").held == () and moves.arrivals("serving") == frozenset()


def test_k1_what_nobody_declares_is_not_held(site: Site) -> None:
    record(site, "datalake", ITEM)
    assert Moves(site, platform("demo")).ledger("datalake").held == ()


def test_k1_the_recorded_urn_is_found_whatever_the_version_and_the_spelling_of_the_namespace(site: Site) -> None:
    older = {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ResourceFlavor", "metadata": {"name": "f"}}
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    record(site, "cluster", older, plain)
    urns = Moves(site, platform("demo")).ledger("cluster").urns
    assert urns[identity({**older, "apiVersion": "kueue.x-k8s.io/v1beta2"})] == "urn:cluster::ResourceFlavor/f"
    spelt = {**plain, "metadata": {"name": "a", "namespace": "default"}}
    assert urns[identity(spelt)] == "urn:cluster::ConfigMap/a"


def test_k1_one_object_in_two_stacks_or_spelt_twice_is_refused(site: Site) -> None:
    declare(site, "datalake", ITEM)
    with pytest.raises(ProfileError, match="the stacks datalake and serving both make ConfigMap/lake/a"):
        managed(declare(site, "serving", ITEM))
    spelt = [{**ITEM, "metadata": {"name": "a", **more}} for more in ({}, {"namespace": "default"})]
    declare(site, "datalake")
    with pytest.raises(ProfileError, match="twice"):
        managed(declare(site, "serving", *spelt))


def test_k1_equal_kinds_of_other_groups_are_other_objects(site: Site) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "lake"}}
    other = {**service, "apiVersion": "serving.knative.dev/v1"}
    names = {resource_name(item) for item in managed(declare(site, "datalake", service, other))["datalake"]}
    assert {"Service/lake/x", "Service.serving.knative.dev/lake/x"} <= names


def test_k1_a_released_object_leaves_no_reference_in_the_state() -> None:
    def resource(urn: str, *needs: str, **more: Any) -> dict[str, Any]:
        return {"urn": urn, "dependencies": [*needs], "propertyDependencies": {"manifest": [*needs]}, **more}

    left = without([resource("a"), resource("b", "a", "c", deletedWith="a"), resource("c")], {"a"})
    assert left == [resource("b", "c"), resource("c")]


def test_k1_what_a_deploy_declares_reaches_the_provider(tmp_path: Path) -> None:
    path = tmp_path / "declared.json"
    path.write_text(write_declared([identity(ITEM), identity(ITEM)]))
    assert read_declared({"SOVEREIGN_DECLARED": str(path)}) == {("", "ConfigMap", "lake", "a")}
    assert read_declared({}) == frozenset()


def test_k2_every_managed_object_records_site_and_stack_and_the_manifest_is_left_alone() -> None:
    for stack, items in managed(platform("demo")).items():
        assert {Owner.of(item) for item in items} == {Owner("made-up-0123abcd", stack)}
    assert "labels" not in owned(ITEM, "s", "datalake") and Owner.of(ITEM) == Owner(None, None)


def test_k2_a_sites_id_is_made_once_and_fits_a_label(site: Site) -> None:
    name = site.id
    assert name.startswith("made-up-") and len(name) <= 63 and name == Site(site.root).id
    site.id_file.write_text("not a label!\n")
    with pytest.raises(SiteError, match="damaged"):
        _ = site.id
