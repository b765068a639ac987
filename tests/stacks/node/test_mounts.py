"""Reading mountinfo, and the guard: a tree with a mount in it is never deleted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign.errors import NodeError
from stacks.node import removal
from stacks.node.mounts import Mount, bind, delete_tree, mounts_below, parse_mountinfo, unmount_tree
from tests.stacks.node.test_spec import a_spec

_MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 254:0 /usr /srv/node/host/usr ro,nosuid shared:1 master:2 - ext4 /dev/vda rw
31 30 0:40 / /srv/node/host/usr/deep rw - tmpfs tmpfs rw
32 27 254:0 /a\\040b//deleted /srv/node/with\\040space rw - ext4 /dev/vda rw
33 27 0:41 / /srv/node2 rw - tmpfs tmpfs rw
34 27 0:42 / /srv/node/host/usr rw - tmpfs tmpfs rw
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_mountinfo_is_read_with_escapes_and_optional_fields() -> None:
    mounts = parse_mountinfo(_MOUNTINFO)
    assert mounts[2] == Mount(30, "/usr", Path("/srv/node/host/usr"), ("ro", "nosuid"), "ext4", ("rw",))
    assert mounts[4].path == Path("/srv/node/with space")
    assert [mount.mount_id for mount in mounts if mount.source_deleted] == [32]


def test_own_mountinfo_is_read_in_full() -> None:
    text = Path("/proc/self/mountinfo").read_text()
    assert len(parse_mountinfo(text)) == len(text.splitlines())


def test_mounts_below_come_deepest_and_latest_first_and_not_from_a_neighbour() -> None:
    found = mounts_below(Path("/srv/node"), parse_mountinfo(_MOUNTINFO))
    assert [mount.mount_id for mount in found] == [31, 34, 30, 32]
    assert mounts_below(Path("/srv/no"), parse_mountinfo(_MOUNTINFO)) == []


class Ground:
    """A node's state folder with a folder of `outside`, which stands for the host, bound into it as pods do."""

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "precious").write_text("the host's")
        self.spec = a_spec(state_dir=folder / "node")
        self.bound = self.spec.state_dir / "kubelet" / "pods" / "usr"
        bind(self.outside, self.bound)
        for name in ("volumes", "etcd", "log"):
            (self.spec.state_dir / name).mkdir()
            (self.spec.state_dir / name / "file").write_text("the node's")
        self.spec.save()

    def is_untouched(self) -> bool:
        return (self.outside / "precious").read_text() == "the host's"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    unmount_tree(tmp_path)


@needs_root
def test_tree_with_a_mount_is_not_deleted(ground: Ground) -> None:
    for tree in (ground.spec.state_dir, ground.bound, ground.bound.parent):
        with pytest.raises(NodeError, match=r"Refused to delete .*pods/usr is mounted"):
            delete_tree(tree)
    link = ground.outside.parent / "link"
    link.symlink_to(ground.spec.state_dir)
    with pytest.raises(NodeError, match="Refused to delete"):
        delete_tree(link)
    assert ground.is_untouched()
    assert (ground.spec.state_dir / "etcd" / "file").exists()


@needs_root
def test_busy_mount_stops_the_removal_before_anything_is_deleted(ground: Ground) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=ground.bound) as busy:
        with pytest.raises(NodeError) as caught:
            removal.delete_files(ground.spec, delete_data=True)
        busy.kill()
    assert str(ground.bound) in str(caught.value) and "busy" in str(caught.value)
    assert ground.is_untouched()
    assert sorted(path.name for path in ground.spec.state_dir.iterdir()) == [
        "etcd", "kubelet", "log", "node.json", "volumes",
    ]  # fmt: skip


@needs_root
def test_removal_unmounts_first_and_keeps_data_until_told(ground: Ground) -> None:
    removal.delete_files(ground.spec, delete_data=False)
    assert ground.is_untouched()
    assert [path.name for path in ground.spec.state_dir.iterdir()] == ["volumes"]
    removal.delete_files(ground.spec, delete_data=True)
    assert not ground.spec.state_dir.exists()
    assert ground.is_untouched()


@needs_root
def test_disk_mounted_as_data_folder_stays_mounted_with_the_data(ground: Ground) -> None:
    disk = ground.outside.parent / "disk"
    disk.mkdir()
    (disk / "lake").write_text("data")
    bind(disk, ground.spec.volumes_dir)
    removal.delete_files(ground.spec, delete_data=False)
    assert [mount.path for mount in mounts_below(ground.spec.state_dir)] == [ground.spec.volumes_dir]
    assert (disk / "lake").read_text() == "data"


@needs_root
def test_read_only_bind_cannot_be_written(ground: Ground) -> None:
    target = ground.spec.state_dir / "host" / "outside"
    bind(ground.outside, target, read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("x")
    assert (target / "precious").read_text() == "the host's"


def test_deleting_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    delete_tree(tree)
    assert not tree.exists()
    assert (outside / "precious").exists()
