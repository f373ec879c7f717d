"""The error tree. Every error the library raises is one of these, and each owns its exit code.

    EdgepruneError
    ├── UsageError            2  a setting, a flag or a file is wrong; nothing was done
    │   ├── ConfigError          edgeprune.toml, a target or a calibration file
    │   ├── ModelError           the factory, its weights or its example inputs
    │   ├── CalibrationError     a calibration set does not fit the model
    │   └── StorageError         a folder or a disk cannot take what must be written
    ├── UnsupportedModel      3  the model cannot be traced, pruned or exported
    │   └── UnsupportedOperation one operation has no rule for what was asked
    ├── BrokenPromise         4  a stage broke its own post-condition: a bug of ours or of a tool we call
    │   └── BoundViolated        a measured error exceeded a certificate
    ├── TargetUnavailable     5  a target cannot be reached, or did not run what it was asked to run
    └── Inconclusive          6  a measurement did not settle within its budget

A gate that fails is not an error but a verdict (exit code 1); an interrupt exits with 130.
Messages say what, where, the number, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class EdgepruneError(Exception):
    """Base of every error raised by edgeprune; catch it to catch them all."""

    exit_code: ClassVar[int] = 2


class UsageError(EdgepruneError):
    """A setting, a flag or a file is wrong; nothing was done."""


class ConfigError(UsageError):
    """A configuration, target or calibration file is malformed or names something unknown."""


class ModelError(UsageError):
    """The model's factory, weights or example inputs cannot be used."""


class CalibrationError(UsageError):
    """A calibration set is empty, damaged, or does not fit the model."""


class StorageError(UsageError):
    """A folder or a disk cannot take what must be written."""


class UnsupportedModel(EdgepruneError):
    """The model cannot be traced, pruned or exported as it stands."""

    exit_code: ClassVar[int] = 3


class UnsupportedOperation(UnsupportedModel):
    """One operation has no rule for what was asked of it."""


class BrokenPromise(EdgepruneError):
    """A stage broke its own post-condition; the result must not be used."""

    exit_code: ClassVar[int] = 4


class BoundViolated(BrokenPromise):
    """A measured error exceeded a certificate: the worst bug this program can have."""


class TargetUnavailable(EdgepruneError):
    """A target cannot be reached, or did not run what it was asked to run."""

    exit_code: ClassVar[int] = 5


class Inconclusive(EdgepruneError):
    """A measurement did not settle within its budget."""

    exit_code: ClassVar[int] = 6
