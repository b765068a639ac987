"""The error tree of the kit. Libraries raise these; only the command line prints them and exits.

SovereignError
├── ProfileError        the profile (or an overlay) is wrong; nothing was touched
├── PlanError           what the profile asks for cannot fit
├── SiteError           the site folder is missing, damaged or in use
│   └── LockedError     another command holds the site; names the holder
├── ToolError           an upstream program or distribution package is missing or cannot be built
├── StoreError          an object or file of the lake is missing or damaged
│   └── StoreUnavailableError   the store does not answer: worth another try
├── SourceError         a data source cannot be read
├── CatalogError        the catalog cannot be read or written, or has not what was asked for
├── ProofError          a proof about a dataset, or what it is made from, does not hold
├── UnusableBaseError   training cannot continue from this model
├── StageError          a stage failed
├── NodeError           the embedded node cannot be made, repaired or removed
├── ClusterError        the API server refused an object, or a wait for it failed
│   └── TemporaryClusterError   worth another try (connection refused, webhook not up yet, conflict)
├── DeployError         a Pulumi operation failed
└── TrainingError       training, evaluation or export cannot go on
    ├── CheckpointError a checkpoint is incomplete, damaged or of another model
    └── PeerLostError   another rank is gone: worth another try
"""

from __future__ import annotations

EX_TEMPFAIL = 75
"""Exit code of a process that may succeed when it is started again; sysexits.h."""


class SovereignError(Exception):
    """Root of all errors that the kit raises on purpose.

    Args:
        message: what failed, in one sentence.
        got: the value or state that was found.
        expected: what would have been right.
        hint: the next thing for the user to do.
    """

    exit_code = 1
    """Exit code of a process that ends with this error."""

    def __init__(self, message: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.got = got
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.got is not None:
            lines.append(f"  got: {self.got}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ProfileError(SovereignError):
    """The profile (or an overlay) is wrong; nothing was touched."""


class PlanError(SovereignError):
    """What the profile asks for cannot fit on its hardware."""


class SiteError(SovereignError):
    """The site folder is missing, damaged or in use."""


class LockedError(SiteError):
    """Another command holds the site."""


class ToolError(SovereignError):
    """An upstream program or a distribution package is missing or cannot be built."""


class StoreError(SovereignError):
    """An object or file of the lake is missing or damaged."""


class StoreUnavailableError(StoreError):
    """The store does not answer now."""

    exit_code = EX_TEMPFAIL


class SourceError(SovereignError):
    """A data source cannot be read."""


class CatalogError(SovereignError):
    """The catalog cannot be read or written, or has not what was asked for."""


class ProofError(SovereignError):
    """A proof about a dataset, or what it is made from, does not hold."""


class PublicationError(SovereignError):
    """A document about a dataset cannot be written."""


class UnusableBaseError(SovereignError):
    """Training cannot continue from this model."""


class StageError(SovereignError):
    """A stage of the way from corpus to registered model failed."""


class NodeError(SovereignError):
    """The embedded node cannot be made, repaired or removed."""


class ClusterError(SovereignError):
    """The API server refused an object, or a wait for it failed."""


class TemporaryClusterError(ClusterError):
    """A cluster error that is worth another try."""


class DeployError(SovereignError):
    """A Pulumi operation failed."""


class TrainingError(SovereignError):
    """Training, evaluation or export cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint is incomplete, damaged or of another model."""


class PeerLostError(TrainingError):
    """Another rank is gone."""

    exit_code = EX_TEMPFAIL
