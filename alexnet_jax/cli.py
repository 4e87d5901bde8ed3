"""What every app shares: flags, configs, and one clear line for a mistake."""

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax.errors import InputError


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs an app; a mistake in its input is one line on stderr and exit status 2."""

    def checked(argv: Sequence[str]) -> int | None:
        logging.set_verbosity(logging.ERROR)  # Orbax tells every step it takes
        try:
            return main(argv)
        except InputError as error:
            return _refuse(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(checked, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_refuse(error))
    except FileNotFoundError as error:
        sys.exit(_refuse(f"--config={error.filename}: no such file"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections' answers to an unknown key or a value of another type.
        sys.exit(_refuse(f"{_config_argument(argv, error)}: {error}"))


def _config_argument(argv: Sequence[str], error: Exception) -> str:
    """The --config… argument that the error speaks of, as far as it can be told."""
    given = [a for a in argv if a.lstrip("-").startswith("config")]
    named = [a for a in given if a.split("=")[0].rsplit(".", 1)[-1] in str(error)]
    return (named or given or ["--config"])[0]


def _refuse(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def define_config() -> Any:
    """Defines --config=configs/X.py and its --config.key=value."""
    return config_flags.DEFINE_config_file(
        "config", None, "A file of configs/; any key of it can follow as --config.key="
    )


def save_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Writes config.json."""
    path.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(path: Path) -> ml_collections.ConfigDict:
    """Reads the config.json of a work directory.

    Raises:
        InputError: it is not there or not JSON.
    """
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; give a work directory that alexnet_jax.main made"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); restore or delete it") from None


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{'network.dropout': 0.5, …}, values as JSON gives them back."""

    def walk(prefix: str, tree: dict[str, Any]):
        for name, value in tree.items():
            if isinstance(value, dict) and value:
                yield from walk(f"{prefix}{name}.", value)
            else:
                yield prefix + name, value

    return dict(walk("", json.loads(json.dumps(config.to_dict()))))


def one_of(value: str, allowed: Sequence[str], key: str) -> str:
    """The value, if it is allowed.

    Raises:
        InputError: with the nearest allowed value.
    """
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{key}={value!r}: allowed are {', '.join(allowed)}{hint}")


def no_more_arguments(argv: Sequence[str]) -> None:
    """Refuses arguments that are no flags.

    Raises:
        InputError: naming the first one.
    """
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; see --help")
