"""The provider plugin with the real engine against a real API server, through inline Automation API programs."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
from kubernetes import client
from pulumi import automation as auto

from sovereign.tools import find_tool
from stacks.fields import Object
from stacks.kube import Cluster
from stacks.node.spec import NodeSpec
from stacks.resources import Manifest, Node
from tests.e2e.node_fixture import RunningNode, config_map

pytestmark = [
    pytest.mark.e2e,
    # Pulumi leaves the event loop of a failed inline program, and its sockets, to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECRET = "correct-horse-battery-staple"


class Part(pulumi.ComponentResource):
    """Parent of everything: the types of parents stand before a resource's own in its URN."""

    def __init__(self) -> None:
        super().__init__("test:index:Part", "part")


class Site:
    """One Pulumi stack whose program holds the manifests of `wanted`, with `options` for some of them.

    With a `node`, that is a resource too and tells the manifests where their cluster is.
    """

    def __init__(self, folder: Path, kubeconfig: Path, cluster_uid: str) -> None:
        self.wanted: dict[str, Object] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.node: NodeSpec | None = None
        self.defaults: dict[str, Any] = {"kubeconfig": str(kubeconfig), "cluster_uid": cluster_uid}
        self.folder = folder
        self.messages: list[str] = []
        self._stack_made = False
        backend = f"file://{folder}"
        self.stack = auto.create_stack(
            "dev",
            "test",
            program=self._program,
            opts=auto.LocalWorkspaceOptions(
                work_dir=str(folder),
                env_vars={"PULUMI_BACKEND_URL": backend, "PULUMI_CONFIG_PASSPHRASE": "test"},
                project_settings=auto.ProjectSettings("test", "python", backend=auto.ProjectBackend(backend)),
            ),
        )

    def _program(self) -> None:
        parent = Part()
        where = dict(self.defaults)
        if self.node is not None:
            # The node is the session's: destroying the stack must not take it away.
            options = pulumi.ResourceOptions(parent=parent, retain_on_delete=True)
            node = Node("node", json.loads(self.node.to_json()), opts=options)
            where = {"kubeconfig": node.kubeconfig, "cluster_uid": node.cluster_uid}
            pulumi.export("volumes", node.volumes_dir)
        where["opts"] = pulumi.ResourceOptions(parent=parent)
        for name, manifest in self.wanted.items():
            resource = Manifest(name, manifest, **{**where, **self.options.get(name, {})})
            pulumi.export(name, {"uid": resource.uid, "validated": resource.validated})

    def up(self) -> dict[str, int]:
        """Deploy; how many resources were created, updated, replaced."""
        self.messages.clear()
        try:
            result = self.stack.up(on_output=self.messages.append)
            return self._changes(result.summary.resource_changes)
        finally:
            self._stack_made = True

    def preview(self) -> dict[str, int]:
        self.messages.clear()
        return self._changes(self.stack.preview(on_output=self.messages.append).change_summary)

    def refused(self) -> str:
        """Deploy, which must fail; the text that the user sees."""
        with pytest.raises(auto.CommandError) as caught:
            self.up()
        return str(caught.value)

    def destroy(self) -> None:
        self.messages.clear()
        self.stack.destroy(on_output=self.messages.append)
        self._stack_made = False

    def _changes(self, counts: Any) -> dict[str, int]:
        numbers = {str(getattr(kind, "value", kind)): int(number) for kind, number in (counts or {}).items()}
        if not self._stack_made:
            numbers["create"] -= 2  # the stack itself and the component
        return {kind: number for kind, number in numbers.items() if kind != "same" and number}

    @property
    def text(self) -> str:
        return "".join(self.messages)

    @property
    def outputs(self) -> dict[str, Any]:
        return {name: output.value for name, output in self.stack.outputs().items()}

    def files(self) -> str:
        """Everything that Pulumi keeps: state, history, backups, checkpoints."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return "".join(path.read_text(errors="replace") for path in paths)

    def resource(self, name: str) -> dict[str, Any]:
        deployment = self.stack.export_stack().deployment or {}
        (found,) = [one for one in deployment["resources"] if one["urn"].endswith(f"::{name}")]
        return dict(found)


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folders = [str(Path(sys.prefix) / "bin"), str(find_tool("pulumi").parent), os.environ["PATH"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join(folders))
        patch.setenv("PULUMI_HOME", str(tmp_path_factory.mktemp("pulumi")))
        patch.setenv("PULUMI_SKIP_UPDATE_CHECK", "true")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the plugin of this checkout
        patch.setenv("KUBECONFIG", "/nowhere/of-somebody-else")
        # Its records of failed programs would keep their event loops alive until pytest ends.
        patch.setattr(logging.getLogger("grpc._server"), "disabled", True)
        yield


@pytest.fixture
def site(cluster: RunningNode, tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path, cluster.kubeconfig, cluster.uid)
    gc.collect()


def secret(namespace: str, name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }


def job(namespace: str, name: str, *args: str) -> Object:
    container = {"name": "main", "image": "sovereign.local/pause:1", "args": list(args)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


def test_objects_from_preview_to_destroy(
    site: Site, namespace: str, kube: Cluster, others: client.CoreV1Api, tmp_path: Path
) -> None:
    encoded = base64.b64encode(SECRET.encode()).decode()
    settings, lost = config_map(namespace, "settings", mode="ours"), config_map(namespace, "lost")
    fixed = {**config_map(namespace, "fixed", a="1"), "immutable": True}
    site.wanted = {"settings": settings, "lost": lost, "fixed": fixed, "key": secret(namespace, "key", word=SECRET)}
    site.options = {"lost": {"keep": True}}
    seen = []
    # (1) Before the cluster exists, a preview shows the objects and says that nobody has checked them.
    kubeconfig, site.defaults["kubeconfig"] = site.defaults["kubeconfig"], str(tmp_path / "not-there-yet")
    assert site.preview() == {"create": 4}
    assert site.text.count("validated: false") == 4
    # (2) With the cluster there, the same preview is checked by its API server.
    site.defaults["kubeconfig"] = kubeconfig
    assert site.preview() == {"create": 4}
    assert site.text.count("validated: true") == 4
    assert kube.get(settings) is None, "a preview made the object"
    # (3) Deployed, and deployed again: nothing to do.
    assert site.up() == {"create": 4}
    live = kube.get(site.wanted["key"])
    assert live is not None and live["data"] == {"word": encoded}
    assert site.outputs["key"] == {"uid": live["metadata"]["uid"], "validated": True}
    assert site.up() == {}
    # (4) What others changed or deleted is named and set right; what they added stays theirs.
    others.patch_namespaced_config_map("settings", namespace, {"data": {"mode": "theirs", "extra": "x"}})
    others.patch_namespaced_secret("key", namespace, {"stringData": {"word": f"{SECRET}-by-others"}})
    others.delete_namespaced_config_map("lost", namespace)
    assert site.preview() == {"update": 3}
    assert "data.mode: 'theirs', should be 'ours'" in site.text and "extra" not in site.text
    assert "data.word (secret)" in site.text and "others deleted it" in site.text
    seen.append(site.text)
    # (5) A field that cannot change costs a new object, in the same deploy that repairs the others.
    site.wanted["fixed"] = {**fixed, "data": {"a": "2"}}
    assert site.up() == {"update": 3, "replace": 1}
    assert [change.name for manifest in site.wanted.values() for change in kube.diff(manifest)] == []
    live = kube.get(settings)
    assert live is not None and live["data"] == {"mode": "ours", "extra": "x"}
    seen.append(site.text)
    # (6) Gone with the stack, but for what is kept; and no secret was shown or written in clear on the way.
    site.destroy()
    assert [name for name, manifest in site.wanted.items() if kube.get(manifest)] == ["lost"]
    for text in (SECRET, encoded):
        assert text not in "".join(seen) and text not in site.files()


def test_refresh_sees_drift_and_deletion(site: Site, namespace: str, kube: Cluster, others: client.CoreV1Api) -> None:
    # One of the two is there already and is imported.
    older = kube.apply(config_map(namespace, "edited", a="1"))
    site.wanted = {name: config_map(namespace, name, a="1") for name in ("edited", "deleted")}
    site.options = {"edited": {"opts": pulumi.ResourceOptions(import_=f"v1/ConfigMap/{namespace}/edited")}}
    for key, value in (("kubeconfig", site.defaults["kubeconfig"]), ("clusterUid", site.defaults["cluster_uid"])):
        site.stack.set_config(f"sovereign:{key}", auto.ConfigValue(value))
    assert site.up() == {"import": 1, "create": 1}
    assert site.resource("edited")["outputs"]["uid"] == older["metadata"]["uid"]
    others.patch_namespaced_config_map("edited", namespace, {"data": {"a": "2", "b": "theirs"}})
    others.delete_namespaced_config_map("deleted", namespace)
    site.stack.refresh()
    assert site.resource("edited")["inputs"]["manifest"]["data"] == {"a": "2"}
    with pytest.raises(ValueError, match="not enough values"):
        site.resource("deleted")
    site.destroy()


def test_running_node_is_adopted_and_tells_where_its_cluster_is(
    site: Site, namespace: str, kube: Cluster, cluster: RunningNode
) -> None:
    site.node = cluster.spec
    site.wanted = {"on-it": config_map(namespace, "on-it", a="1")}
    # The first preview cannot know the node's outputs.
    assert site.preview() == {"create": 2}
    assert "validated: false" in site.text
    assert site.up() == {"create": 2}
    assert site.outputs["volumes"] == str(cluster.spec.volumes_dir)
    assert site.resource("on-it")["inputs"]["clusterUid"] == cluster.uid
    assert site.preview() == {}
    site.destroy()
    assert kube.get(site.wanted["on-it"]) is None
    assert kube.uid == cluster.uid


def test_what_does_not_become_ready_stays_in_the_state(site: Site, namespace: str, kube: Cluster) -> None:
    site.wanted = {"job": job(namespace, "fails", "--no-such-option")}
    site.options = {"job": {"timeout_s": 60}}
    text = site.refused()
    assert f"Job {namespace}/fails: failed" in text and "exit code" in text and "BackoffLimitExceeded" in text
    assert site.resource("job")["initErrors"], "the engine forgot an object that exists"
    assert site.preview() == {"update": 1}, "the next deploy would not look after it"
    site.destroy()
    assert kube.get(site.wanted["job"]) is None


def test_kind_and_its_objects_in_one_deploy(site: Site, namespace: str, kube: Cluster) -> None:
    group = f"{namespace}.test"
    schema = {"openAPIV3Schema": {"type": "object"}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": namespace}}
    # Nothing depends on anything here: the widget meets a cluster that does not know its kind.
    site.wanted = {"widget": widget, "crd": crd}
    assert site.preview() == {"create": 2}
    assert site.up() == {"create": 2}
    site.destroy()
    assert kube.get(crd) is None


def test_plugin_ends_with_its_engine(site: Site, namespace: str) -> None:
    site.wanted = {"job": {**job(namespace, "waits"), "spec": {**job(namespace, "waits")["spec"], "suspend": True}}}
    deploy = threading.Thread(target=site.refused)
    deploy.start()
    deadline = time.monotonic() + 60
    while not (plugins := _children("pulumi-resource-sovereign")) or "suspended" not in site.text:
        assert time.monotonic() < deadline, "the deploy did not come to its wait"
        time.sleep(0.2)
    plugin, engine = plugins[0]
    os.kill(engine, signal.SIGKILL)
    deploy.join()
    while Path(f"/proc/{plugin}").exists():
        assert time.monotonic() < deadline, "the plugin outlives its engine"
        time.sleep(0.1)
    site.stack.cancel()
    # What was being created is not known to the state; a deploy adopts it, as an apply does.
    del site.wanted["job"]["spec"]["suspend"]
    site.options["job"] = {"wait": False}
    state = json.loads(json.dumps(site.stack.export_stack().deployment))
    state.pop("pending_operations", None)
    site.stack.import_stack(auto.Deployment(version=3, deployment=state))
    assert site.up() == {"create": 1}
    site.destroy()


def _children(program: str) -> list[tuple[int, int]]:
    """Process ID and parent of each running plugin that this test process started, over any number of generations."""
    listing = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    parents = {int(row[0]): int(row[1]) for row in rows}

    def ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [(int(r[0]), int(r[1])) for r in rows if ours(int(r[0])) and (program in r[2] or "provider.main" in r[2])]
