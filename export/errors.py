"""What can go wrong at build time, each with one line for the person at the terminal."""


class ExportError(Exception):
    """Base: the message is the whole story; the command line prints it and exits with 2."""


class CheckpointError(ExportError):
    """The checkpoint, its card or its weights cannot be used."""


class LiftError(ExportError):
    """The module's state cannot be lifted out."""


class ParityError(ExportError):
    """An artefact disagrees with the eager model: nothing is archived."""
