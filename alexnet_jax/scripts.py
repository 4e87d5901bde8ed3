"""The apps as commands: `alexnet-train` is `python -m alexnet_jax.main`."""

import runpy


def train() -> None:
    """`python -m alexnet_jax.main`."""
    _run("main")


def evaluate() -> None:
    """`python -m alexnet_jax.evaluate`."""
    _run("evaluate")


def predict() -> None:
    """`python -m alexnet_jax.predict`."""
    _run("predict")


def prepare() -> None:
    """`python -m alexnet_jax.prepare`."""
    _run("prepare")


def convert() -> None:
    """`python -m alexnet_jax.convert`."""
    _run("convert")


def report() -> None:
    """`python -m alexnet_jax.report`."""
    _run("report")


def benchmark() -> None:
    """`python -m alexnet_jax.benchmark`."""
    _run("benchmark")


def _run(app: str) -> None:
    # As __main__: its flags and docstring are then those that --help shows, and an app
    # that is imported defines none.
    runpy.run_module(f"alexnet_jax.{app}", run_name="__main__", alter_sys=True)
