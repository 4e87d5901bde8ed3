"""The house rules of the package: imports point one way, and nothing grows unseen."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alexnet_jax"

# From the ground up: a module imports from the floors below its own, or its own room,
# which is a folder or a module beside them.
FLOORS = (
    {"errors"},
    {"config_file", "data", "device", "values"},
    {"cli", "metrics", "network", "optimizer", "preemption", "processes", "schedules"},
    {"config", "loggers", "manifest", "parallel", "prepare", "progress", "weights"},
    {"console", "feed", "fingerprints", "inference", "inputs", "step"},
    {"bars", "checkpoint", "experiment", "predictor"},
    {"features", "workdir"},
    {"convert", "evaluate", "predict", "train"},
    {"report"},
    {"main"},
    {"benchmark", "scripts"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# The same within data/.
DATA_FLOORS = (
    {"augment", "files", "generated", "ilsvrc", "images", "index"},
    {"prepared", "preprocess", "tars"},
    {"folders", "held_out", "loader", "statistics", "tfds"},
    {"sources"},
)
DATA_FLOOR = {name: floor for floor, names in enumerate(DATA_FLOORS) for name in names}

# The rooms that these may import, apart from themselves.
MAY_IMPORT = {
    "data": {"errors"},
    "network": {"device", "errors"},
    "prepare": {"cli", "data", "errors", "values"},
    "weights": {"data", "errors", "network"},
}

KNOW_THE_CONFIG = {
    *("cli", "config", "config_file", "console", "experiment", "inputs", "values"),
    "workdir",
    *("convert", "evaluate", "train", "report", "benchmark"),
}
NOT_IN_DATA = {"jax", "jaxlib", "flax", "optax", "orbax", "ml_collections", "configs"}

APPS = (
    *("main", "evaluate", "predict", "convert"),
    *("prepare.__main__", "report.__main__", "benchmark.__main__"),
)
LONGEST_CHAIN = 8
MOST_MODULES = 99
LONGEST_MODULE = 300
MOST_LINES = {
    "root and network": 7_898,
    "data": 2_385,
    "prepare": 1_255,
    "report": 1_510,
    "benchmark": 2_300,
    "weights": 1_005,
}

FILES = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = [file for file in FILES if file.name != "__init__.py"]
every_module = pytest.mark.parametrize("file", MODULES, ids=str)


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


def name_of(file: Path) -> str:
    """'data.files' of data/files.py."""
    return ".".join(file.with_suffix("").parts)


def tree_of(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text())


def imported(file: Path) -> Iterator[str]:
    """Full names of all modules and names that a file imports, wherever in it."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: Path) -> Iterator[str]:
    """Those of the package, without its name: 'data.files.locked'."""
    for name in imported(file):
        top, _, inside = name.partition(".")
        if top == "alexnet_jax":
            yield inside


def test_every_room_has_a_floor():
    rooms = {room_of(file) for file in MODULES}
    assert rooms == FLOOR.keys(), "give each a place in FLOORS, and none twice"
    assert sum(map(len, FLOORS)) == len(FLOOR)
    assert rooms >= KNOW_THE_CONFIG
    inside = {file.stem for file in MODULES if room_of(file) == "data"}
    assert inside == DATA_FLOOR.keys(), "give each a place in DATA_FLOORS"
    assert sum(map(len, DATA_FLOORS)) == len(DATA_FLOOR)


@every_module
def test_imports_point_one_way(file):
    own = room_of(file)
    for name in own_imports(file):
        room, *inside = name.split(".")
        if room != own:
            assert FLOOR[room] < FLOOR[own], f"{own} imports {name}"
            assert room in MAY_IMPORT.get(own, FLOOR), f"{own} imports {name}"
        elif own == "data":
            floor = DATA_FLOOR[file.stem]
            assert DATA_FLOOR[inside[0]] < floor, f"{file.stem} imports {inside[0]}"


@every_module
def test_nothing_imports_benchmark(file):
    rooms = {name.split(".")[0] for name in own_imports(file)}
    assert "benchmark" not in rooms or room_of(file) == "benchmark"


@every_module
def test_only_main_imports_the_report(file):
    rooms = {name.split(".")[0] for name in own_imports(file)}
    assert "report" not in rooms or room_of(file) in {"report", "main"}
    tops = {name.split(".")[0] for name in imported(file)}
    assert "matplotlib" not in tops or room_of(file) == "report"


@every_module
def test_only_apps_and_the_loop_know_the_config(file):
    tops = {name.split(".")[0] for name in imported(file)}
    assert "configs" not in tops
    if room_of(file) not in KNOW_THE_CONFIG:
        assert "ml_collections" not in tops
    if room_of(file) == "data":
        assert not tops & NOT_IN_DATA


@every_module
def test_no_field_of_a_config_has_a_second_default(file):
    tree = tree_of(file)
    configs = {"config"}
    for node in ast.walk(tree):  # c = config.network
        if isinstance(node, ast.Assign) and root_name(node.value) in configs:
            configs |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.func.attr in ("get", "setdefault", "get_oneway_ref")
            on_config = root_name(node.func.value) in configs
            assert not (asked and on_config), f"{file}: {ast.unparse(node)}"


def root_name(node: ast.AST) -> str | None:
    """The name that a chain of attributes and items starts from: x of x.y['z']."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute) and node.attr == "config":
            return "config"  # self.config
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


# --- how much there is ---------------------------------------------------------------


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of the package that a module of it imports."""
    file = Path(*module.split(".")).with_suffix(".py")
    modules = {name_of(file) for file in MODULES}
    found = set()
    for name in own_imports(file):
        # 'data.files.locked' is a name in 'data.files'.
        found |= modules & {name, name.rpartition(".")[0]}
    return frozenset(found)


@functools.cache
def longest_chain(module: str) -> tuple[str, ...]:
    """The longest path of imports, from a module to one that imports none."""
    below = [longest_chain(name) for name in sorted(imports_of(module))]
    return (module, *max(below, key=len, default=()))


def test_chains_of_imports_are_found():
    assert longest_chain("errors") == ("errors",)
    assert longest_chain("values") == ("values", "errors")
    assert "data.files" in imports_of("metrics")


@pytest.mark.parametrize("app", APPS)
def test_chains_of_imports_are_short(app):
    chain = longest_chain(app)
    print(f"\n{len(chain)}: {' > '.join(chain)}")
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def lines_of(file: Path) -> int:
    return len((PACKAGE / file).read_text().splitlines())


@every_module
def test_no_module_is_long(file):
    assert lines_of(file) <= LONGEST_MODULE


def test_there_are_not_many_modules():
    assert len(MODULES) <= MOST_MODULES


@pytest.mark.parametrize("house", MOST_LINES)
def test_a_house_keeps_to_its_lines(house):
    others = set(MOST_LINES)
    lines = sum(
        lines_of(file)
        for file in FILES
        if house == (room_of(file) if room_of(file) in others else "root and network")
    )
    print(f"\n{house}: {lines:,} lines")
    assert lines <= MOST_LINES[house]


# --- what is loaded ------------------------------------------------------------------


def loaded(program: str, without: set[str] = frozenset()) -> set[str]:
    """The modules of the package that a Python program loads: {'data.files', …}.

    Args:
        program: its text.
        without: packages that cannot be imported in it.
    """
    text = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(without)!r}))
{program}
print(*(name for name in sys.modules if name.startswith("alexnet_jax.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.removeprefix("alexnet_jax.") for name in done.stdout.split()}


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


EVERYTHING_IN = """
import importlib, pkgutil
import alexnet_jax.{0}
for module in pkgutil.iter_modules(alexnet_jax.{0}.__path__, "alexnet_jax.{0}."):
    importlib.import_module(module.name)
"""


def test_data_does_its_work_where_there_is_no_jax():
    # Workers are spawned: what data/ imports, each of them imports. grain imports jax
    # where it finds it and does without where it does not.
    without = NOT_IN_DATA | {"tensorflow_datasets"}  # an extra
    found = loaded(EVERYTHING_IN.format("data"), without=without)
    assert rooms(found) == {"data", "errors"}
    assert "data.loader" in found


def test_prepare_does_its_work_where_there_is_no_jax():
    no_jax = NOT_IN_DATA - {"ml_collections"}  # of cli, for the flags
    found = loaded(EVERYTHING_IN.format("prepare"), without=no_jax)
    assert rooms(found) == {"prepare", "cli", "config_file", "data", "errors", "values"}


def test_compiling_a_network_loads_no_reader():
    network = """
import jax, jax.numpy as jnp
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.network.shapes import stages, training_flop
network, pixels = AlexNet(units=(16, 16)), jnp.zeros((1, 67, 67, 3))
params = jax.eval_shape(network.init, jax.random.key(0), pixels)
jax.jit(network.apply).lower(params, pixels)
training_flop(network, 67)
"""
    found = loaded(network)
    assert rooms(found) == {"network", "device", "errors"}
    assert {name for name in found if name.startswith("network.")} == {
        name_of(file) for file in MODULES if room_of(file) == "network"
    }


def test_building_an_experiment_loads_no_reader():
    # metrics.jsonl is written with data.files, as all files are.
    experiment = """
from alexnet_jax import experiment
from alexnet_jax.config import base_config
config = base_config()
config.mesh.data = 1
experiment.check(config)
experiment.make_program(config, 10, experiment.make_mesh(config))
"""
    found = loaded(experiment)
    readers = {name for name in found if name.split(".")[0] == "data"}
    assert readers <= {"data", "data.files"}
    assert not rooms(found) & {"prepare", "inputs", "benchmark"}


def test_training_starts_without_the_report():
    # Matplotlib takes half a second to load: main does so after the training.
    start = "import alexnet_jax.main, sys; assert 'matplotlib' not in sys.modules"
    assert "report" not in rooms(loaded(start))
