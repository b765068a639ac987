"""State as fragments of whole parameters, so that any number of ranks and any ZeRO stage reads what any other wrote.

ZeRO gives a rank a part of the master weights and of the optimizer's moments. In stages 1, 2 and 3 alike that part is,
for each parameter, one range of its elements in row-major order. A rank's file holds these ranges under the names

    master/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>      the fragments, flat
    scalar/step                                                          what is one number for all parameters
    random/cpu, random/cuda                                              the states of the rank's random generators

and the manifest says which ranges they are. Who goes on reads the ranges that it needs, from whatever files hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from sovereign.errors import CheckpointError

Spans = Mapping[str, tuple[int, int]]
"""By parameter: the first element of a range, and the one after its last."""
MASTER, SCALAR, RANDOM = "master", "scalar", "random"


def overlapping(wanted: Spans, held: Mapping[str, Spans]) -> set[str]:
    """The files, of those that hold `held`, with any element of `wanted`."""

    def is_needed(spans: Spans) -> bool:
        return any(_overlap(spans.get(name), span) for name, span in wanted.items())

    return {file for file, spans in held.items() if is_needed(spans)}


def _overlap(one: tuple[int, int] | None, other: tuple[int, int]) -> bool:
    return one is not None and max(one[0], other[0]) < min(one[1], other[1])


class FragmentReader:
    """Reads ranges of parameters out of the files of one checkpoint, which must be verified before."""

    def __init__(self, folder: Path, held: Mapping[str, Spans]) -> None:
        """Args: `held` are the ranges of each file to read from."""
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()
        self._pieces: dict[str, list[tuple[int, int, str]]] = {}
        for file, spans in held.items():
            self._files[file] = self._stack.enter_context(safe_open(folder / file, framework="pt"))
            for name, (start, stop) in spans.items():
                self._pieces.setdefault(name, []).append((start, stop, file))
        for pieces in self._pieces.values():
            pieces.sort()
        keys = {key.split("/", 1)[0] for file in self._files.values() for key in file.keys()}  # noqa: SIM118  # no mapping
        self.kinds = sorted(keys - {SCALAR, RANDOM})
        """What there is of each parameter: master weights and moments."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements `start` to `stop` of a parameter; shape [stop - start].

        Raises:
            CheckpointError: no file holds them all.
        """
        parts, place = [], start
        for first, last, file in self._pieces.get(name, ()):
            if first <= place < min(last, stop):
                piece = self._files[file].get_slice(f"{kind}/{name}")
                parts.append(piece[place - first : min(last, stop) - first])
                place = min(last, stop)
        if place != stop:
            raise CheckpointError(
                f"{self._folder} does not hold all of {name}",
                got=f"{kind} up to {place}",
                expected=f"{start} to {stop}",
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def scalars(self) -> dict[str, torch.Tensor]:
        """What is one number for all parameters."""
        return self._named(SCALAR, self._files)

    def random(self, file: str) -> dict[str, torch.Tensor]:
        """States of the random generators of the rank that wrote `file`."""
        return self._named(RANDOM, [file])

    def _named(self, kind: str, files: Iterable[str]) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(f"{kind}/"): self._files[file]
            .get_tensor(key)
            .clone()  # else all would share the memory of the file
            for file in files
            for key in self._files[file].keys()  # noqa: SIM118
            if key.startswith(f"{kind}/")
        }
