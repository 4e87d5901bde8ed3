"""The house rules of the package: imports point one way, data/ knows neither jax nor
config, and every field of a config is there to be read."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alexnet_jax"

# From the ground up: a module imports from the floors below its own, or its own folder.
FLOORS = (
    {"compilation", "errors"},
    {"cli", "data", "metrics", "network", "optimizer"},
    {"lock", "parallel", "processes", "stop", "trace"},
    {"inference", "step"},
    {"checkpoint", "feed", "limits", "pictures", "progress"},
    {"experiment"},
    {"program", "runs"},
    {"measure"},
    {"evaluate", "train"},
    {"benchmark", "convert", "main", "predict", "prepare", "report"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
KNOW_THE_CONFIG = {
    "cli",
    "experiment",
    "limits",
    "pictures",
    "program",
    "progress",
    "runs",
    "measure",
    *FLOORS[-2],
    *FLOORS[-1],
}
NOT_IN_DATA = {"jax", "jaxlib", "flax", "optax", "orbax", "ml_collections", "configs"}

FILES = [
    path.relative_to(PACKAGE)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
]
every_file = pytest.mark.parametrize("file", FILES, ids=str)


def room_of(file: Path) -> str:
    return file.parts[0].removesuffix(".py")


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


@every_file
def test_imports_point_one_way(file):
    own = room_of(file)
    assert own in FLOOR, f"{file}: give it a floor in tests/test_layout.py"
    for name in imported(file):
        top, *inside = name.split(".")
        if top == "alexnet_jax" and inside[0] != own:
            assert FLOOR[inside[0]] < FLOOR[own], f"{own} imports {name}"


@every_file
def test_only_apps_and_the_loop_know_the_config(file):
    tops = {name.split(".")[0] for name in imported(file)}
    assert "configs" not in tops
    if room_of(file) not in KNOW_THE_CONFIG:
        assert "ml_collections" not in tops
    if room_of(file) == "data":
        assert not tops & NOT_IN_DATA


@every_file
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


def test_data_does_its_work_where_there_is_no_jax():
    # Workers are spawned: what data/ imports, each of them imports. grain imports jax
    # where it finds it and does without where it does not.
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({sorted(NOT_IN_DATA)!r}))
import alexnet_jax.data
for module in pkgutil.iter_modules(alexnet_jax.data.__path__, "alexnet_jax.data."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.startswith("alexnet_jax.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert loaded == {"data", "errors"}
    assert "alexnet_jax.data.loader" in done.stdout
