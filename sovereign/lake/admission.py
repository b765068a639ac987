"""What of a source is let in: pages without an opt-out, documents whose licence is an SPDX expression."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign.lake.documents import Document
from sovereign.lake.hostfiles import read_collected
from sovereign.lake.notices import HostFile, Notice
from sovereign.lake.optouts import OptOuts
from sovereign.lake.records import NOTICE
from sovereign.lake.scratch import no_room
from sovereign.licences import LicenceError, check_licence
from sovereign.profile import Source
from sovereign.profile_rights import Rights


@dataclass(frozen=True)
class Admission:
    """The rules for one source."""

    declared: frozenset[str]
    """Custom terms."""
    opt_outs: OptOuts | None
    """None where the source ignores them."""

    def digest(self) -> dict[str, Any]:
        """JSON values that change with the answers."""
        return {"declared": sorted(self.declared), "opt_outs": self.opt_outs.digest() if self.opt_outs else None}

    def reason(self, document: Document, record: dict[Any, Any]) -> str:
        """Why the document is left out, or nothing."""
        try:
            check_licence(document.licence, self.declared)
        except LicenceError as error:
            return f"licence {error.problem}"
        if self.opt_outs is None:
            return ""
        notice = record.get(NOTICE)
        assert notice is None or isinstance(notice, Notice)
        return self.opt_outs.reason(document.url, document.collected_at, notice)

    def knows_no_robots(self, document: Document) -> bool:
        """Whether the document has an address and robots.txt of its host is not there to be read."""
        return self.opt_outs is not None and not self.opt_outs.has_robots(document.url)


@contextmanager
def admission_to(source: Source, rights: Rights, files: Iterable[HostFile], path: Path) -> Iterator[Admission]:
    """The rules for `source`.

    Args:
        files: the hosts' files inside the source itself.
        path: of a scratch file.

    Raises:
        SourceError: the folder of collected files is not there, or cannot be read.
        OSError: there is no room for the scratch file.
    """
    if source.opt_outs == "ignore":
        yield Admission(rights.declared, None)
        return
    try:
        with OptOuts(path, rights.opt_outs.agents, retroactive=rights.opt_outs.retroactive) as opt_outs:
            if rights.opt_outs.collected is not None:
                for file in read_collected(Path(rights.opt_outs.collected)):
                    opt_outs.add(file)
            for file in files:
                opt_outs.add(file)
            yield Admission(rights.declared, opt_outs)
    except sqlite3.OperationalError as error:
        if full := no_room(error, path):
            raise full from error
        raise
