"""Errors of a build. Each message is one line for the person at the terminal."""


class ExportError(Exception):
    """Base class. The command line prints the message and exits with 2."""


class CheckpointError(ExportError):
    """The checkpoint, its specification or its weights cannot be used."""


class LiftError(ExportError):
    """The module's state cannot be made explicit, or a graph format cannot hold the module."""


class ParityError(ExportError):
    """An artefact disagrees with the eager model; nothing is archived."""


class CalibrationError(ExportError):
    """The calibration series cannot be read or forecast; nothing is archived."""
