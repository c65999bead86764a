"""What can go wrong while the demo model is made."""


class DemoModelError(Exception):
    """The demo model could not be made."""


class MissingDependencyError(DemoModelError):
    """A package of the `train` extra is not installed."""


class CorpusError(DemoModelError):
    """A text file of the corpus cannot be read as questions and answers."""


class ModelTooLargeError(DemoModelError):
    """The written file is larger than the repository allows."""
