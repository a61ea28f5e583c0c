"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: a wrong path, value, file or photo.

    The message names the thing, says what is wrong with it and what to do. The command line
    prints it on stderr, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2


class AgreedError(UserError):
    """Raised in all processes of a run, after they have told each other: one of them prints it."""


def reason(error: OSError) -> str:
    """What the operating system said, as a short phrase without numbers or paths."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def reason_in_short(error: Exception) -> str:
    """Kind and first line of an error of another library or of a user's own code."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
