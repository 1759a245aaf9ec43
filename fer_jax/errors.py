"""The errors that a user is meant to read: one line with the file, the value and the remedy."""


class FerJaxError(Exception):
    """Something about the user's input or machine is wrong; commands exit with code 1."""


class UsageError(FerJaxError):
    """A command was called wrongly; commands exit with code 2."""


class Preempted(BaseException):
    """A run was told to stop and can be gone on with; commands exit with code 75.

    As KeyboardInterrupt it is no Exception: nothing that deals with errors may swallow it.
    """
