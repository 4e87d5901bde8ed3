"""What every app shares: flags, configs, and one clear line for a mistake."""

import difflib
import errno
import json
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Sequence
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from alexnet_jax.errors import InputError

flags.disclaim_key_flags()  # flags defined here are the app's own: its --help has them

_FULL = (errno.ENOSPC, errno.EDQUOT)  # of which a write does not say where it was

# What int(), float() and absl say, in our words.
_IN_OUR_WORDS = {
    r"^flag (?=--)": "",
    r"invalid literal for int\(\).*": "must be a whole number",
    r"could not convert string to float.*": "must be a number",
    r"\('Non-boolean argument to boolean flag'.*": "must be true or false",
}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs an app; a mistake in its input is one line on stderr and exit status 2."""

    def checked(argv: Sequence[str]) -> int | None:
        logging.set_verbosity(logging.ERROR)  # Orbax tells every step it takes
        # Of a damaged checkpoint asyncio would tell once for every array in it.
        getLogger("asyncio").setLevel(CRITICAL)
        try:
            return main(argv)
        except InputError as error:
            return _refuse(error)
        except BrokenPipeError:
            _to_nobody()
            return 1
        except OSError as error:  # no right to write there, no space left
            if error.filename is None and error.errno not in _FULL:
                raise
            return _refuse(f"{error.filename or 'a disk'}: {error.strerror}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    if hasattr(sys.stdout, "reconfigure"):  # names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    app.run(checked, flags_parser=_parse)


def say(text: str) -> None:
    """Prints a line. That nobody reads any more (| tee, | head) stops no training."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _to_nobody()


def _to_nobody() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: Sequence[str]) -> Sequence[str]:
    logging.set_verbosity(logging.ERROR)
    try:
        rest = flags.FLAGS(argv)
        # A file that could not be read is told of only where its config is used.
        if "config" in flags.FLAGS and _given_config(argv) is not None:
            flat(flags.FLAGS["config"].value)
        return rest
    except SystemExit:
        sys.exit(0)  # absl ends --help with 1
    except Exception as error:  # whatever stands in a config file
        sys.exit(_refuse(_what_is_wrong(argv, error)))


def _what_is_wrong(argv: Sequence[str], error: Exception) -> str:
    """The flag or key, its value and what is allowed."""
    text, path = str(error), _given_config(argv)
    missing = set(re.findall(r"Flag (--\w+) must have a value other", text))
    if (path is not None and "--config" in missing) or "parsing config file" in text:
        return _wrong_config(argv, path or "", text)
    if missing:
        return f"{', '.join(sorted(missing))}: must be given; see --help"
    if isinstance(error, flags.Error):
        for theirs, ours in _IN_OUR_WORDS.items():
            text = re.sub(theirs, ours, text)
        return text
    return _wrong_config(argv, path or "", f"{type(error).__name__}: {text}")


def _wrong_config(argv: Sequence[str], path: str, otherwise: str) -> str:
    """What is wrong with the file of --config, or with a --config.key."""
    file = path.split(":")[0]
    if not Path(file).is_file():
        return f"--config={path}: no such file; give one of configs/"
    try:
        config = runpy.run_path(file)["get_config"](*path.split(":")[1:])
    except Exception as error:
        return f"--config={path}: {type(error).__name__}: {error}"
    if not isinstance(config, ml_collections.ConfigDict):
        return f"--config={path}: get_config() must return a ConfigDict, not {config}"
    keys = flat(config)
    for argument in argv:
        if named := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            key = named[1]
            if not any(k == key or k.startswith(f"{key}.") for k in keys):
                return f"--config.{key}: no such key{nearest(key, keys)}"
    return f"--config={path}: {otherwise}"


def _given_config(argv: Sequence[str]) -> str | None:
    """The value of --config."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return None


def _refuse(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def define_config(default: str | None = None) -> Any:
    """Defines --config=configs/X.py and its --config.key=value."""
    sys.path.append(str(Path(__file__).parents[1]))  # configs/ import one another
    return config_flags.DEFINE_config_file(
        "config",
        default,
        "A file of configs/; any key of it can follow as --config.key=",
    )


def define_networks() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines --checkpoint and --views: which networks answer, and from how much."""
    checkpoint = flags.DEFINE_list(
        "checkpoint",
        None,
        "Work directories; several are averaged as an ensemble.",
        required=True,
    )
    views = flags.DEFINE_enum("views", "1", ["1", "10"], "Views of a picture (§4.1).")
    return checkpoint, views


def define_processes() -> tuple[flags.FlagHolder, flags.FlagHolder, flags.FlagHolder]:
    """Defines --coordinator, --processes and --process: which of several this is."""
    coordinator = flags.DEFINE_string(
        "coordinator",
        None,
        "host:port where the first of several processes meets the others; 'auto' where "
        "Slurm, a TPU VM or Open MPI tells.",
    )
    count = flags.DEFINE_integer("processes", 1, "How many there are.", lower_bound=1)
    index = flags.DEFINE_integer("process", 0, "Which this one is.", lower_bound=0)
    return coordinator, count, index


def save_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Writes config.json, whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    os.replace(temporary, path)


def load_config(path: Path) -> ml_collections.ConfigDict:
    """Reads the config.json of a work directory.

    Raises:
        InputError: it is not there or not JSON.
    """
    try:
        return as_config(path.read_text(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path}: no such file; give a work directory that alexnet_jax.main made"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not JSON; restore or delete it") from None


def as_config(text: str, where: str) -> ml_collections.ConfigDict:
    """A config from the text of a config.json.

    Raises:
        InputError: it is not one, saying where it stood.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error}); restore or delete it") from None
    if not isinstance(tree, dict):
        raise InputError(f"{where}: not a config; restore or delete it")
    try:
        return ml_collections.ConfigDict(tree)
    except ValueError as error:  # of names with dots
        raise InputError(f"{where}: {error}; restore or delete it") from None


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{'network.dropout': 0.5, …}, values as JSON gives them back."""

    def walk(prefix: str, tree: dict[str, Any]):
        for name, value in tree.items():
            if isinstance(value, dict) and value:
                yield from walk(f"{prefix}{name}.", value)
            else:
                yield prefix + name, value

    return dict(walk("", json.loads(json.dumps(config.to_dict()))))


def one_of(value: Any, allowed: Sequence[Any], key: str) -> Any:
    """The value, if it is allowed.

    Raises:
        InputError: with the nearest allowed value.
    """
    if value in allowed:
        return value
    raise InputError(
        f"{key}={value!r}: allowed are {', '.join(map(str, allowed))}"
        f"{nearest(value, map(str, allowed))}"
    )


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; did you mean X?', where one of the allowed words is close."""
    near = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def path(name: str, flag: str) -> Path:
    """A file or folder that a flag names.

    Raises:
        InputError: the flag is empty, which Path takes for the current folder.
    """
    if not name:
        raise InputError(f"{flag}=: names nothing; give a path, such as {flag}=.")
    return Path(name)


def work_directories(names: Sequence[str]) -> list[Path]:
    """The work directories of --checkpoint.

    Raises:
        InputError: one has no name.
    """
    if not names or not all(names):
        raise InputError(f"--checkpoint={','.join(names)}: name a work directory")
    return [Path(name) for name in names]


def no_more_arguments(argv: Sequence[str]) -> None:
    """Refuses arguments that are no flags.

    Raises:
        InputError: naming the first one.
    """
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; see --help")
