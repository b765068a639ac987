"""OCI images from static programs, written as a stream, the same bytes each time; no container engine, no registry.

An image has one layer. Its bytes are made twice, once to be hashed and once to be sent, so that no program lies in
memory or on disk a second time. Standard library only, as the supervisor imports it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from stacks.node.spec import REGISTRY, UNPRIVILEGED, BinaryImage

HOST_IMAGE = f"{REGISTRY}/host:1"
"""An empty root with links /bin, /lib, /lib64, /sbin into /usr, for pods that bind /usr, Python and runtime."""
PAUSE_IMAGE = f"{REGISTRY}/pause:1"

_LAYOUT = "1"  # part of the cache key: raise it when the bytes of a layer change
_MEDIA = "application/vnd.oci.image."
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_COPY_BYTES = 1 << 20
_ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Image:
    """What goes into the one layer of an image, and how it is run."""

    reference: str
    files: dict[str, Path] = field(default_factory=dict)
    """Path in the image without the leading / → program on this machine, mode 0755."""
    folders: tuple[str, ...] = ()
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    user: str = "0:0"

    def key(self) -> str:
        """Changes when what the image is made of changes; cheap, reads no file."""
        stats = {name: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for name, path in self.files.items()}
        record = [_LAYOUT, self.reference, stats, self.folders, self.links, self.texts, self.entrypoint, self.user]
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def from_binary(image: BinaryImage) -> Image:
    program = image.entrypoint[0].lstrip("/")
    parents = [str(parent) for parent in reversed(Path(program).parents) if str(parent) != "."]
    folders = tuple(dict.fromkeys([*parents, "tmp", "etc", "var", "var/lib"]))
    return Image(image.reference, {program: image.binary}, folders, entrypoint=image.entrypoint, user=image.user)


def host_image() -> Image:
    """See `HOST_IMAGE`; it holds no program at all."""
    uid = UNPRIVILEGED.split(":")[0]
    return Image(
        HOST_IMAGE,
        folders=("usr", "tmp", "etc", "proc", "sys", "dev", "root", "home", "opt", "var", "work"),
        links={name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")},
        texts={
            "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nsovereign:x:{uid}:{uid}:sovereign:/tmp:/bin/sh\n",
            "etc/group": f"root:x:0:\nsovereign:x:{uid}:\n",
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        },
        user=UNPRIVILEGED,
    )


def pause_image(catatonit: Path) -> Image:
    """The sandbox process of every pod: the distribution's static catatonit, told to wait."""
    return Image(PAUSE_IMAGE, {"pause": catatonit}, entrypoint=("/pause", "-P"))


@dataclass(frozen=True)
class Blob:
    digest: str
    num_bytes: int
    write: Callable[[Writable], None]


class _Hash:
    """Counts and hashes what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes, /) -> None:
        self.sha256.update(data)
        self.num_bytes += len(data)


def layer(image: Image, known: tuple[str, int] | None = None) -> Blob:
    """The layer of an image; `known` is its remembered digest and size, without which it is read once and hashed."""

    def write(out: Writable) -> None:
        _write_layer(image, out)

    if known is None:
        sink = _Hash()
        write(sink)
        known = f"sha256:{sink.sha256.hexdigest()}", sink.num_bytes
    return Blob(*known, write)


@dataclass(frozen=True)
class Archive:
    """An OCI image layout in one tar stream, ready to be written."""

    digest: str
    """Of the manifest: what a container runtime calls the image's digest."""
    blobs: tuple[Blob, ...]
    index: bytes

    def write(self, out: Writable) -> None:
        _put(out, "oci-layout", _blob(b'{"imageLayoutVersion":"1.0.0"}'))
        _put(out, "index.json", _blob(self.index))
        for blob in self.blobs:
            _put(out, f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", blob)
        out.write(bytes(2 * tarfile.BLOCKSIZE))


def archive(image: Image, layer_blob: Blob) -> Archive:
    """Configuration, manifest and index of an image around its layer."""
    config = _json_blob(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": _ENV, "User": image.user}
            | ({"Entrypoint": list(image.entrypoint)} if image.entrypoint else {}),
            "rootfs": {"type": "layers", "diff_ids": [layer_blob.digest]},
        }
    )
    manifest = _json_blob(
        {
            "schemaVersion": 2,
            "mediaType": _MEDIA + "manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer_blob)],
        }
    )
    names = dict.fromkeys(("io.containerd.image.name", "org.opencontainers.image.ref.name"), image.reference)
    index = {"schemaVersion": 2, "manifests": [_descriptor("manifest.v1+json", manifest) | {"annotations": names}]}
    return Archive(manifest.digest, (config, manifest, layer_blob), json.dumps(index).encode())


class LayerCache:
    """Remembers the digests of layers in a JSON file, so that a second start does not read the programs again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError):  # without it, or where it is damaged, the layers are read again
            known = json.loads(file.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def archive(self, image: Image) -> Archive:
        key = image.key()
        remembered = self._known.get(key)
        blob = layer(image, None if remembered is None else (str(remembered[0]), int(remembered[1])))
        self._known[key] = [blob.digest, blob.num_bytes]
        return archive(image, blob)

    def dump(self) -> str:
        return json.dumps(self._known, indent=1, sort_keys=True)


def _write_layer(image: Image, out: Writable) -> None:
    for name in image.folders:
        _put_header(out, name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)
    for name, target in sorted(image.links.items()):
        _put_header(out, name, tarfile.SYMTYPE, 0o777, link=target)
    for name, text in sorted(image.texts.items()):
        _put(out, name, _blob(text.encode()))
    for name, path in sorted(image.files.items()):
        with path.open("rb") as stream:
            _put_stream(out, name, stream, path.stat().st_size, mode=0o755)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _put_header(out: Writable, name: str, kind: bytes, mode: int, *, num_bytes: int = 0, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, num_bytes, link
    out.write(info.tobuf(tarfile.GNU_FORMAT))


def _put_stream(out: Writable, name: str, stream: BinaryIO, num_bytes: int, *, mode: int) -> None:
    _put_header(out, name, tarfile.REGTYPE, mode, num_bytes=num_bytes)
    while chunk := stream.read(_COPY_BYTES):
        out.write(chunk)
    out.write(bytes(-num_bytes % tarfile.BLOCKSIZE))


def _put(out: Writable, name: str, blob: Blob) -> None:
    _put_header(out, name, tarfile.REGTYPE, 0o644, num_bytes=blob.num_bytes)
    blob.write(out)
    out.write(bytes(-blob.num_bytes % tarfile.BLOCKSIZE))


def _blob(data: bytes) -> Blob:
    def write(out: Writable) -> None:
        out.write(data)

    return Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), write)


def _json_blob(record: dict[str, Any]) -> Blob:
    return _blob(json.dumps(record, sort_keys=True, separators=(",", ":")).encode())


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": _MEDIA + media_type, "digest": blob.digest, "size": blob.num_bytes}
