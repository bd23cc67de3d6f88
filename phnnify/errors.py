"""The exceptions a user can meet.

Every one carries a message that says what came, what was needed and where, and may carry a hint that
says what to do. The command line turns `UsageError` into exit code 2 and the others into exit code 1.
"""

from __future__ import annotations


class PhnnifyError(Exception):
    """The input or the model cannot be served.

    Args:
        message: What came, what was needed, and where.
        hint: What to do about it, where there is something.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PhnnifyError, ValueError):
    """An option or argument has a value that cannot mean anything."""


class FileError(PhnnifyError):
    """A file cannot be read or written, or is not what it should be."""


class UntrustedError(FileError):
    """A file would have to run code stored inside it, and that was not permitted."""


class ModelError(PhnnifyError):
    """A network, its weights or its example inputs do not fit together."""


class PlanError(PhnnifyError):
    """A plan does not fit the network, or no weight can be converted."""


class ExportError(PhnnifyError):
    """A network cannot be exported, or the exported file does not agree with it."""


class StoppedError(PhnnifyError):
    """A run was asked to stop before its end; its state was saved."""


class DistillationError(PhnnifyError):
    """A distillation cannot go on."""
