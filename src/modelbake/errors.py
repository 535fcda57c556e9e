"""Every error that modelbake raises on purpose, each with the exit code that the command line gives for it."""

from __future__ import annotations


class ModelbakeError(Exception):
    """Base of all deliberate errors; the message says what happened, to which file, and what to do next.

    `exit_code` is the process's exit code: 0 done, 1 a bug of ours, 2 usage, 3 unknown name, 4 source or registry unreachable,
    5 digest or schema mismatch, 6 parity gate missed or no gain from training, 7 machine not able, 8 refused for safety.
    """

    exit_code = 1


class UsageError(ModelbakeError):
    """The command's words or a parameter's value do not fit."""

    exit_code = 2


class UnknownNameError(ModelbakeError):
    """A bundle, target or file name that nothing here bears."""

    exit_code = 3


class SourceUnreachableError(ModelbakeError):
    """No source could give the bytes: network, hub or registry out of reach, or the file is not there."""

    exit_code = 4


class IntegrityError(ModelbakeError):
    """Bytes whose digest or size is not the pinned one, or a document that its schema refuses."""

    exit_code = 5


class ParityError(ModelbakeError):
    """An artifact's outputs are further from its goldens than its gate allows."""

    exit_code = 6


class NoGainError(ModelbakeError):
    """Trained weights that do no better on held-out data than doing nothing."""

    exit_code = 6


class MachineError(ModelbakeError):
    """This machine cannot do it: no engine, disk full, memory, a tool that is missing."""

    exit_code = 7


class RefusedError(ModelbakeError):
    """Refused for safety: a path that leaves its root, an archive member that is no plain file, pickled weights."""

    exit_code = 8
