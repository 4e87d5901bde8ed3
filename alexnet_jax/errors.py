class InputError(ValueError):
    """A mistake in what was given to us: a path, a picture, a flag, a config key.

    Its message is one line that names the value, what is allowed and where to change
    it. The apps print that line alone and end with exit status 2 (`cli.run`).
    """


class NonFiniteError(InputError):
    """A loss or a parameter is not finite any more: the rate was too large."""


class PictureError(InputError):
    """A picture that cannot be decoded; the message names it and says why."""
