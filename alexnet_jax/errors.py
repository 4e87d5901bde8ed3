"""Errors that are reported to the user as one line."""


class InputError(ValueError):
    """A mistake in a path, image, flag or config key, described in one line.

    The line names the value, what is allowed and where to change it; the apps print it
    alone and exit with status 2 (`cli.run`).
    """


class NonFiniteError(InputError):
    """A loss or a parameter is not finite: the learning rate was too large."""

    def __init__(self, what: str):
        """Name the number and the step."""
        super().__init__(
            f"{what}; the last good checkpoint is kept; start again with a lower "
            "optimizer.rate in another --workdir"
        )


class ImageError(InputError):
    """An image that cannot be decoded; the message names it and the reason."""


class NotInstalledError(InputError):
    """An optional library is needed and absent."""

    def __init__(self, what: str, extra: str):
        """Name what needs it, and the extra of this package that installs it."""
        super().__init__(
            f"{what}: needs a library that is not installed; "
            f"pip install 'alexnet_jax[{extra}]'"
        )
