"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: a wrong path, value, file or photo.

    The message names the thing, says what is wrong with it and what to do. The command line
    prints it on stderr, without a traceback, and exits with `exit_code`.
    """

    exit_code = 2


def reason(error: OSError) -> str:
    """What the operating system said, as a short phrase without numbers or paths."""
    return (error.strerror or str(error) or type(error).__name__).lower()
