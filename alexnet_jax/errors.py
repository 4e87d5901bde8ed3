class InputError(ValueError):
    """A mistake in what was given to us: a path, a picture, a flag, a config key.

    Its message is one line that names the value, what is allowed and where to change
    it. The apps print that line alone and end with exit status 2 (`cli.run`).
    """


class NonFiniteError(InputError):
    """A loss or a parameter is not finite any more: the rate was too large."""

    def __init__(self, what: str):
        """Say what is not finite, and after which update."""
        super().__init__(
            f"{what}; the last good checkpoint is kept; start anew with a lower "
            "optimizer.rate in another --workdir"
        )


class PictureError(InputError):
    """A picture that cannot be decoded; the message names it and says why."""
