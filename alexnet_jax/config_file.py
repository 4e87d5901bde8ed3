"""The files that --config names."""

import os
import runpy
import sys
from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax.errors import InputError

PACKAGE = Path(__file__).parent
PAPER = str(PACKAGE / "config.py")
# Where configs/ lies: a checkout, a wheel.
FOLDERS = [str(PACKAGE.parent), str(PACKAGE / "shipped")]


def load_config(given: str) -> ConfigDict:
    """The config that --config names.

    Args:
        given: a file with a get_config(), where configs/X.py may be one of this
            package's; 'X.py:NAME' passes NAME to it; or the config.json of a run.
    """
    file, *parameter = full_name(given)
    if not Path(file).is_file():
        raise InputError(
            f"--config={given}: no such file; give one like those of configs/"
        )
    before = sys.path[:]
    sys.path += FOLDERS  # configs/ import each other
    try:
        config = runpy.run_path(file)["get_config"](*parameter)
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config() must return a ConfigDict, not {config}")
        return config
    except InputError as error:
        raise InputError(f"--config={given}: {error}") from None
    except Exception as error:  # the file is any code
        raise InputError(f"--config={given}: {type(error).__name__}: {error}") from None
    finally:
        sys.path[:] = before


def full_name(given: str) -> list[str]:
    """The file that --config names and, where there is one, its parameter.

    configs/X.py may also be one of this package's, and a config.json is read by
    alexnet_jax/config.py.
    """
    name, *parameter = given.split(":", 1)
    own = os.path.expanduser(name)
    places = [own]
    if name.startswith("configs/"):
        places += [f"{folder}/{name}" for folder in FOLDERS]
    file = next((place for place in places if Path(place).is_file()), own)
    if file.endswith(".json") and not parameter:
        return [PAPER, file]
    return [file, *parameter]
