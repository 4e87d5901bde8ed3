"""Shared by the apps: flags, configs, and one clear line for a mistake."""

import faulthandler
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from alexnet_jax.config_file import FOLDERS, PAPER, full_name, load_config
from alexnet_jax.errors import InputError
from alexnet_jax.values import flat, nearest

flags.disclaim_key_flags()  # flags defined here are shown in the app's --help

WIDTH = 100  # columns of what is printed

# In errors where memory is short.
_SHORT = ("RESOURCE_EXHAUSTED", "std::bad_alloc", "can't start new thread")

# Messages of int(), float() and absl, reworded.
_REWORDED = {
    r"^flag (?=--)": "",
    r"invalid literal for int\(\).*": "must be a whole number",
    r"could not convert string to float.*": "must be a number",
    r"\('Non-boolean argument to boolean flag'.*": "must be true or false",
}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Run an app; a mistake in its input is one line on stderr and a status, mostly 2.

    Ctrl-C ends an app that has not come here yet at once (`alexnet_jax/__init__.py`).
    """

    def checked(argv: Sequence[str]) -> int | None:
        on_ctrl_c(_unwind)
        logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, from threads
        if not os.environ.get("PYTHONFAULTHANDLER"):
            faulthandler.disable()  # absl's: pages of stacks where C++ gives up
        getLogger("asyncio").setLevel(CRITICAL)  # it logs each damaged array
        try:
            return main(argv)
        except InputError as error:
            return _end(error, error.status)
        except BrokenPipeError:
            _discard_stdout()
            return 1
        except OSError as error:  # no permission, no space left, too many files
            if error.errno is None:
                raise
            return _end(": ".join(filter(None, (error.filename, error.strerror))))
        except (MemoryError, RuntimeError) as error:
            reason = str(error).partition("\n")[0][:200]
            if isinstance(error, RuntimeError) and not any(w in reason for w in _SHORT):
                raise
            return _end(f"too little memory for this process: {reason}")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:  # another Ctrl-C, while Python shuts down, is no traceback
            on_ctrl_c(signal.SIG_DFL)

    if hasattr(sys.stdout, "reconfigure"):  # characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    app.run(checked, flags_parser=_parse)


def _end(error: object, status: int = InputError.status) -> int:
    """Refuse; threads of Orbax would wait 300 s for a checkpoint that has failed."""
    _refuse(error, status)
    if any(not thread.daemon for thread in threading.enumerate()[1:]):
        sys.stdout.flush()
        os._exit(status)
    return status


def on_ctrl_c(handler: Any) -> None:
    """Set what Ctrl-C does, unless it is ignored, as in a background job of a shell."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _unwind(*_: object) -> None:
    """Ctrl-C unwinds an app; another one, which would disturb that, ends it at once."""
    signal.signal(signal.SIGINT, end_at_once)
    raise KeyboardInterrupt


def end_at_once(*_: object) -> None:
    """A handler of Ctrl-C, for an app of which nothing has to be unwound."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(130)


def say(text: str) -> None:
    """Print a line, above a progress bar; a closed pipe must not stop training."""
    try:
        with tqdm.external_write_mode(file=sys.stdout):
            print(text, flush=True)
    except BrokenPipeError:
        _discard_stdout()


def explain(text: str, indent: str = "") -> None:
    """Print a text of any length in lines of at most `WIDTH` columns."""
    lines = textwrap.wrap(
        text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False
    )
    say("\n".join(indent + line for line in lines))


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: Sequence[str]) -> Sequence[str]:
    logging.set_verbosity(logging.ERROR)
    keys: Sequence[str] = ()
    try:
        if "config" in flags.FLAGS:
            argv, keys = _check_config(argv)
        argv = flags.FLAGS(argv)
        for name, value in flags.FLAGS.flag_values_dict().items():
            if not name.startswith("config.") and value != value:  # no bound has NaN
                raise InputError(f"--{name}={value}: must be a number")
        return argv
    except SystemExit:
        sys.exit(0)  # absl exits from --help with status 1
    except flags.UnrecognizedFlagError as error:
        sys.exit(_refuse(_meant(error.flagname, keys) or error))
    except Exception as error:  # a config file is any code
        text = str(error)
        if missing := re.findall(r"Flag (--\w+) must have a value other", text):
            text = f"{', '.join(sorted(missing))}: must be given; see --help"
        for theirs, ours in _REWORDED.items():
            text = re.sub(theirs, ours, text)
        sys.exit(_refuse(text))


def _check_config(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Find mistakes in --config that absl reports late, or in several lines.

    Returns:
        The arguments, with the file that --config names in full, and the config's keys.
    """
    keys = flat(load_config((given := _given("config", argv)) or PAPER))
    for argument in argv:
        if named := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            key = named[1]
            if not any(k == key or k.startswith(f"{key}.") for k in keys):
                raise InputError(f"--config.{key}: no such key{nearest(key, keys)}")
            if given is None:
                raise InputError(
                    f"--config.{key}: there is no config to change; give "
                    "--config=configs/X.py, or a work directory with a config.json"
                )
    if given is None:
        return argv, [*keys]
    first = [f"--config={':'.join(full_name(given))}"]
    return [*argv[:1], *first, *_without("config", argv[1:])], [*keys]


def _given(flag: str, argv: Sequence[str]) -> str | None:
    """The value of a flag before absl has read the flags; None without it."""
    for argument, following in pairwise([*argv, None]):
        name, equals, value = str(argument).partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else following
    return None


def _without(flag: str, arguments: Sequence[str]) -> list[str]:
    """The arguments without a flag and its value."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in (f"--{flag}", f"-{flag}"):
            kept.append(argument)
        elif not equals:
            next(rest, None)
    return kept


def _meant(flag: str, keys: Iterable[str]) -> str:
    """The key of a config that a flag without 'config.' names; '' if none."""
    for key in keys:
        if flag in (key, key.rpartition(".")[2]):
            return f"--{flag}: no such flag; did you mean --config.{key}?"
    return ""


def _refuse(error: object, status: int = InputError.status) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def define_config(default: str | None = None, run: str = "") -> Any:
    """Define --config=configs/X.py and its --config.key=value.

    Args:
        default: the file to take without --config.
        run: the flag with the work directory whose config.json to take without it.
    """
    sys.path += FOLDERS  # configs/ import each other
    if _given("config", sys.argv) is None:
        given = _given(run, sys.argv) if run else None
        if names := list(filter(None, (given or "").split(","))):
            kept = folders(names, f"--{run}")[0] / "config.json"
            default = str(kept) if kept.is_file() else default
        if default:
            # Not as the flag's default: absl reads that too early to name a wrong key.
            sys.argv.insert(1, f"--config={default}")
    return config_flags.DEFINE_config_file(
        "config", None, "A file of configs/; any key of it can follow as --config.key="
    )


def define_skip_damaged() -> Any:
    """Define --skip_damaged."""
    skipped = "Where a checkpoint is damaged, take the one before it, and name both."
    return flags.DEFINE_bool("skip_damaged", False, skipped)


def define_networks(
    views: str = "1",
) -> Callable[[], tuple[list[Path], dict[str, Any]]]:
    """Define the flags about trained networks; the result reads them.

    The folders of --checkpoint; --views, --weights, --best and --skip_damaged by name.
    """
    several = "Work directories; several are averaged as an ensemble."
    checkpoint = flags.DEFINE_list("checkpoint", None, several, required=True)
    kinds = "Views of an image: 1, 10 (§4.1), or 9 as for CIFAR-10 in 2012."
    number = flags.DEFINE_enum("views", views, ["1", "9", "10"], kinds)
    weights = flags.DEFINE_list("weights", [], "Of the networks of an ensemble.")
    newest = "Take the checkpoint of least validation error, not the newest."
    best = flags.DEFINE_bool("best", False, newest)
    skip = define_skip_damaged()

    def given() -> tuple[list[Path], dict[str, Any]]:
        given_folders = folders(checkpoint.value, "--checkpoint")
        try:
            shares = [float(weight) for weight in weights.value]
        except ValueError:
            raise InputError(
                f"--weights={','.join(weights.value)}: must be numbers, 0 or more"
            ) from None
        how = {"views": int(number.value), "weights": shares}
        return given_folders, how | {"best": best.value, "skip_damaged": skip.value}

    return given


def folders(names: Sequence[str], flag: str) -> list[Path]:
    """The folders in a flag, split at commas that their names may have too."""
    if not names or not all(names):
        raise InputError(f"{flag}={','.join(names)}: name a work directory")
    found, names = list[Path](), [os.path.expanduser(name) for name in names]
    while names:
        joined = {n: Path(",".join(names[:n])) for n in range(len(names), 0, -1)}
        count = next((n for n, folder in joined.items() if folder.is_dir()), 1)
        found.append(joined[count])
        names = names[count:]
    return found


def define_processes() -> Callable[[], tuple[str | None, int, int]]:
    """Define --coordinator, --processes and --process; the result reads them."""
    first = "host:port of the first process; 'auto' under Slurm, Open MPI, on TPU VMs."
    coordinator = flags.DEFINE_string("coordinator", None, first)
    count = flags.DEFINE_integer("processes", 1, "Number of processes.", lower_bound=1)
    index = flags.DEFINE_integer("process", 0, "Index of this process.", lower_bound=0)
    return lambda: (coordinator.value, count.value, index.value)


def path(name: str, flag: str) -> Path:
    """The path in a flag."""
    if not name:
        raise InputError(f"{flag}=: is empty; give a path, such as {flag}=.")
    if "://" in name:
        raise InputError(f"{flag}={name}: is an address; mount it, and give its folder")
    return Path(os.path.expanduser(name))


def no_more_arguments(argv: Sequence[str]) -> None:
    """Refuse arguments that are not flags."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; see --help")
