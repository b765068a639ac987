"""Units of work that the ranks of a stage share out, with the store as all that they have in common.

A step has a number of units, which the ranks share out; it begins when every unit of the steps before is finished. A
finished unit is its files and then a marker, in the store: JSON with their digests and what else is to be known. A
unit with a marker is not made again, so a rank that was killed, or all of them, go on with what is not finished. What a
unit makes must depend on nothing but the stage's inputs, and not on the number of ranks.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from sovereign.errors import StageError
from sovereign.files import sha256_bytes, sha256_file
from sovereign.stages import StageContext

PATIENCE_S = 3600.0
"""How long a rank waits without another unit being finished."""
_POLL_S = (0.1, 5.0)
"""Time between two looks at the store, at first and at most; it grows while nothing happens."""
_PARTS = "parts"
"""Name of a unit's file that is read in parts."""

Part = tuple[int, int, str]
"""Start, length in bytes and hex SHA-256 of a part of a file."""


@dataclass
class Result:
    """What a unit made."""

    files: list[Path] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    """Parts of the file named `parts`, which is one of `files`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values for the marker."""


@dataclass(frozen=True)
class Marker:
    """What the store says of a finished unit."""

    files: dict[str, str]
    """Hex SHA-256 by name."""
    parts: dict[str, Part]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A step: its name, its number of units, and what makes one of them in a folder of its own."""

    name: str
    count: int
    make: Callable[[int, Path], Result]


class PartsWriter:
    """Writes a file of named parts, each of which can be fetched by itself. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _PARTS
        self.parts: dict[str, Part] = {}

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, data: bytes) -> None:
        """Add a part; an empty one need not be added."""
        self.parts[name] = (self._file.tell(), len(data), sha256_bytes(data))
        self._file.write(data)

    def result(self, **facts: Any) -> Result:
        """The file, for the unit's result."""
        return Result([self.path], self.parts, facts)


class Work:
    """The work of one rank in the units that all share."""

    def __init__(self, context: StageContext, prefix: str, names: Sequence[str]) -> None:
        """Args: `prefix` is where units lie in the store, `names` are those of all steps in their order.

        Raises:
            StageError: this rank's number is not below that of the ranks.
        """
        if not 0 <= context.rank < context.num_ranks:
            raise StageError(
                "no such rank", got=f"RANK={context.rank}", expected=f"below WORLD_SIZE={context.num_ranks}"
            )
        self._context, self._store = context, context.store
        self.prefix, self._names = prefix, names
        self._folder = context.workdir / "unit"
        self._complete: set[str] = set()

    def share(self, count: int) -> range:
        """This rank's units of `count`: neighbours, so that it reads neighbouring files."""
        first, stop = (
            -(-count * rank // self._context.num_ranks) for rank in (self._context.rank, self._context.rank + 1)
        )
        return range(first, stop)

    def run(self, steps: Sequence[Step]) -> None:
        """Make this rank's unfinished units of all steps.

        Raises:
            StageError: see `wait`, and what the steps raise.
        """
        for position, step in enumerate(steps):
            done = self.done(step.name)
            wanted = [number for number in self.share(step.count) if number not in done]
            if wanted:
                self.wait(steps[:position])
            for number in wanted:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir(parents=True)
                self.finish(step.name, number, step.make(number, self._folder))
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self, steps: Iterable[Step], is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait until all units of `steps` are finished, or until `is_over`.

        Raises:
            StageError: for `PATIENCE_S` no unit more was finished.
        """
        for step in steps:
            seen, moved, pause = -1, time.monotonic(), _POLL_S[0]
            while step.name not in self._complete:
                found = len(self.done(step.name))
                if found >= step.count:
                    self._complete.add(step.name)
                    break
                if is_over():
                    return
                if found != seen:
                    seen, moved, pause = found, time.monotonic(), _POLL_S[0]
                    message = f"waiting for the other ranks: {step.name}"
                    self._context.progress(message, done=found, total=step.count, unit="units")
                elif time.monotonic() - moved > PATIENCE_S:
                    raise StageError(
                        f"step {step.name} does not go on",
                        got=f"{found} of {step.count} units, and for {PATIENCE_S:.0f} s no other",
                        expected=f"the units of all {self._context.num_ranks} ranks",
                        hint="see what became of the other ranks and run the stage again: what is finished is kept",
                    )
                time.sleep(pause)
                pause = min(1.5 * pause, _POLL_S[1])

    def marker(self, step: str, number: int) -> Marker:
        """The marker of a finished unit.

        Raises:
            StageError: it is damaged; then the unit is made again when the stage runs again.
            StoreError: it is not there.
        """
        key = self._marker_key(step, number)
        try:
            values = json.loads(self._store.get_bytes(key))
            parts = {
                name: (int(start), int(length), str(digest))
                for name, (start, length, digest) in values["parts"].items()
            }
            return Marker(dict(values["files"]), parts, dict(values["facts"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(step, number, key, str(error))

    def key(self, step: str, number: int, name: str) -> str:
        """Store key of a unit's file."""
        return f"{self.prefix}files/{step}/{number:06}/{name}"

    def fetch(self, step: str, number: int, name: str, folder: Path) -> Path:
        """Fetch a unit's file into `folder`.

        Raises:
            StageError: it is not what the unit made; then the unit is made again when the stage runs again.
            StoreError: it is not there.
        """
        path, key = folder / name, self.key(step, number, name)
        expected = self.marker(step, number).files[name]
        self._store.get_file(key, path)
        if (found := sha256_file(path)) != expected:
            self._refuse(step, number, key, found, expected)
        return path

    def read(self, step: str, number: int, *names: str) -> list[bytes]:
        """Fetch parts of a unit's file; empty where there is no such part.

        Raises:
            StageError, StoreError: see `fetch`.
        """
        marker = self.marker(step, number)
        return [self.read_part(step, number, marker.parts[name]) if name in marker.parts else b"" for name in names]

    def read_part(self, step: str, number: int, part: Part) -> bytes:
        """Fetch one part that the unit's marker named.

        Raises:
            StageError, StoreError: see `fetch`.
        """
        start, length, expected = part
        if not length:
            return b""
        key = self.key(step, number, _PARTS)
        data = self._store.get_part(key, start, length)
        if (found := sha256_bytes(data)) != expected:
            self._refuse(step, number, f"{key}, bytes {start} to {start + length - 1},", found, expected)
        return data

    def forget(self, step: str, number: int) -> None:
        """Have a unit made again."""
        self._store.delete(self._marker_key(step, number))

    def _marker_key(self, step: str, number: int | None = None) -> str:
        # Markers of later steps, and then files, come before what they rest on when the keys are deleted from the last.
        folder = f"{self.prefix}markers/{self._names.index(step):02}-{step}/"
        return folder if number is None else f"{folder}{number:06}.json"

    def done(self, step: str) -> set[int]:
        """Finished units."""
        folder = self._marker_key(step)
        return {int(key.removeprefix(folder).removesuffix(".json")) for key in self._store.list(folder)}

    def finish(self, step: str, number: int, result: Result) -> Marker:
        """Store what a unit made, its files and then its marker."""
        digests = {path.name: sha256_file(path) for path in result.files}
        for path in result.files:
            self._store.put_file(self.key(step, number, path.name), path)
        values = {"files": digests, "parts": result.parts, "facts": result.facts}
        self._store.put_bytes(self._marker_key(step, number), json.dumps(values, ensure_ascii=False).encode())
        return Marker(digests, result.parts, result.facts)

    def _refuse(self, step: str, number: int, what: str, found: str, expected: str | None = None) -> NoReturn:
        self.forget(step, number)
        raise StageError(
            f"{what} is not what step {step} made",
            got=found,
            expected=expected,
            hint="something changed or damaged it; run the stage again: this unit is made anew",
        )
