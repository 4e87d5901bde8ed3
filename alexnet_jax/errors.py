"""Errors that are reported to the user as one line."""


def printable(text: str) -> str:
    """Text in which control characters and undecodable bytes are question marks."""
    return _one_line(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _one_line(text: str) -> str:
    """Text without control characters; undecodable bytes of a file's name are kept."""
    kept = (c.isprintable() or "\ud800" <= c <= "\udfff" for c in text)
    return "".join(c if keep else "?" for c, keep in zip(text, kept, strict=True))


class InputError(ValueError):
    """A mistake in a path, image, flag or config key, described in one line.

    The line names the value, what is allowed and where to change it; the apps print it
    alone and exit with its status (`cli.run`).
    """

    status = 2

    def __init__(self, line: object):
        """Line breaks become spaces, and other control characters question marks."""
        parts = (part.strip() for part in str(line).splitlines())
        super().__init__(_one_line(" ".join(parts)))


class NonFiniteError(InputError):
    """A loss or a parameter is not finite: the training has diverged."""

    status = 3

    def __init__(self, what: str, saved: int | None):
        """Name the number and its step, and the step of the newest checkpoint."""
        if saved is None:
            kept, where = "no checkpoint was saved before", ""
        else:
            kept = f"the checkpoint of step {saved:,} is kept"
            where = " in another --workdir"
        super().__init__(
            f"{what}: the training has diverged; {kept}; start again with a lower "
            f"optimizer.rate{where}"
        )


class ImageError(InputError):
    """An image that cannot be decoded; the message names it and the reason."""


class NotInstalledError(InputError):
    """An optional library is needed and absent."""

    def __init__(self, what: str, extra: str, otherwise: str = ""):
        """Name what needs it, and the extra of this package that installs it."""
        super().__init__(
            f"{what}: needs a library that is not installed; "
            f"pip install 'alexnet_jax[{extra}]'{otherwise}"
        )
