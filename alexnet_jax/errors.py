"""Errors that are reported to the user as one line."""


class InputError(ValueError):
    """A mistake in the input: a path, an image, a flag, a config key.

    Its message is one line that names the value, what is allowed and where to change
    it. The apps print that line alone and exit with status 2 (`cli.run`).
    """


class NonFiniteError(InputError):
    """A loss or a parameter is not finite: the learning rate was too large."""

    def __init__(self, what: str):
        """Describe what is not finite, and after which step."""
        super().__init__(
            f"{what}; the last good checkpoint is kept; start again with a lower "
            "optimizer.rate in another --workdir"
        )


class ImageError(InputError):
    """An image that cannot be decoded; the message names it and the reason."""


PictureError = ImageError
