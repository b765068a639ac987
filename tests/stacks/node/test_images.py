"""OCI images: valid, the same bytes each time, and made without holding a program in memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

from stacks.node.images import Archive, Image, LayerCache, archive, from_binary, host_image, layer
from stacks.node.spec import BinaryImage


def packed(image: Image) -> Archive:
    return archive(image, layer(image))


def written(made: Archive) -> bytes:
    out = io.BytesIO()
    made.write(out)
    return out.getvalue()


def read_layout(data: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, tarfile.TarInfo]]:
    """Manifest, configuration and layer entries, with every digest and size on the way checked."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        blobs = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert json.loads(blobs["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = blobs["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert hashlib.sha256(content).hexdigest() == descriptor["digest"].removeprefix("sha256:")
        assert len(content) == descriptor["size"]
        return content

    manifest = json.loads(blob(json.loads(blobs["index.json"])["manifests"][0]))
    configuration = json.loads(blob(manifest["config"]))
    content = blob(manifest["layers"][0])
    assert configuration["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return manifest, configuration, {entry.name: entry for entry in tar.getmembers()}


def a_program(folder: Path, content: bytes = b"\x7fELF" + bytes(1000)) -> BinaryImage:
    program = folder / "program"
    program.write_bytes(content)
    return BinaryImage("tool", "1", program, ("/usr/bin/tool", "serve"))


def test_image_of_a_program_is_a_valid_layout(tmp_path: Path) -> None:
    image = from_binary(a_program(tmp_path))
    made = packed(image)
    data = written(made)
    _, configuration, entries = read_layout(data)
    assert configuration["config"]["Entrypoint"] == ["/usr/bin/tool", "serve"]
    assert configuration["config"]["User"] == "65532:65532"
    assert entries["usr/bin/tool"].size == 1004
    assert entries["usr/bin/tool"].mode == 0o755
    assert list(entries).index("usr/bin") < list(entries).index("usr/bin/tool")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert index["manifests"][0]["digest"] == made.digest
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "sovereign.local/tool:1"


def test_same_input_gives_the_same_bytes_whenever_it_was_made(tmp_path: Path) -> None:
    image = from_binary(a_program(tmp_path))
    first = written(packed(image))
    os.utime(image.files["usr/bin/tool"], (1, 1))
    assert written(packed(image)) == first
    a_program(tmp_path, b"another")
    assert packed(image).digest != archive(image, layer(image, ("sha256:0", 1))).digest
    assert written(packed(image)) != first


def test_host_image_holds_no_program(tmp_path: Path) -> None:
    _, configuration, entries = read_layout(written(packed(host_image())))
    assert configuration["config"]["User"] == "65532:65532"
    assert {entries[name].linkname for name in ("bin", "lib", "lib64", "sbin")} == {
        "usr/bin", "usr/lib", "usr/lib64", "usr/sbin",
    }  # fmt: skip
    assert entries["usr"].isdir() and entries["tmp"].mode == 0o1777
    assert not [name for name, entry in entries.items() if entry.isfile() and entry.mode & 0o111]


def test_digests_are_remembered_until_the_program_changes(tmp_path: Path) -> None:
    image = from_binary(a_program(tmp_path))
    file = tmp_path / "layers.json"
    cache = LayerCache(file)
    first = cache.archive(image).digest
    file.write_text(cache.dump())
    # A layer that is remembered is not read: spoil the record and see it used.
    spoilt = {key: ["sha256:" + "0" * 64, size] for key, (_, size) in json.loads(file.read_text()).items()}
    file.write_text(json.dumps(spoilt))
    assert LayerCache(file).archive(image).digest != first
    a_program(tmp_path, b"changed")
    assert LayerCache(file).archive(image).digest == packed(image).digest


def test_program_is_streamed(tmp_path: Path) -> None:
    num_bytes = 32 << 20
    image = from_binary(a_program(tmp_path, bytes(num_bytes)))

    class Nowhere:
        num_bytes = 0

        def write(self, data: bytes, /) -> None:
            self.num_bytes += len(data)

    tracemalloc.start()
    packed(image).write(out := Nowhere())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.num_bytes > num_bytes
    assert peak_bytes < num_bytes / 4
