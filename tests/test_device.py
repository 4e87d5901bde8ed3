import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from apps import ROOT
from jax.experimental.compilation_cache import compilation_cache
from runs import CACHE, tiny_flags

from alexnet_jax import device

DIRECTORY = "jax_compilation_cache_dir"


@pytest.fixture
def no_directory():
    """As JAX is where nobody has told it where to keep programs."""
    compilation_cache.reset_cache()
    jax.config.update(DIRECTORY, None)
    yield
    compilation_cache.reset_cache()
    jax.config.update(DIRECTORY, CACHE[DIRECTORY])
    jax.config.update("jax_enable_compilation_cache", True)


def compile_something(number: float) -> None:
    jax.jit(lambda x: x * number + 1)(jnp.zeros(3)).block_until_ready()


@pytest.mark.usefixtures("no_directory")
def test_programs_are_kept_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device.keep()
    compile_something(20.12)
    kept = list(tmp_path.glob("alexnet_jax/jit__lambda*"))
    assert len(kept) == 1

    compilation_cache.reset_cache()  # a new start
    device.always()
    compile_something(20.13)
    assert list(tmp_path.glob("alexnet_jax/jit__lambda*")) == kept


@pytest.mark.usefixtures("no_directory")
def test_without_xdg_they_are_kept_below_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    device.keep()
    assert jax.config.jax_compilation_cache_dir == f"{tmp_path}/.cache/alexnet_jax"


@pytest.mark.usefixtures("no_directory")
@pytest.mark.parametrize("caches", ["{}/file", "/proc", "relative"])
def test_where_nothing_can_be_kept_nothing_is(caches, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", caches.format(tmp_path))
    device.keep()
    assert jax.config.jax_compilation_cache_dir is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_jaxs_own_setting_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device.keep()
    assert jax.config.jax_compilation_cache_dir == CACHE[DIRECTORY]
    assert not list(tmp_path.iterdir())


def test_a_training_keeps_its_update_for_the_next_start(tmp_path):
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **quickly, "XDG_CACHE_HOME": str(tmp_path)}
    del environment[DIRECTORY.upper()]
    flags = tiny_flags(tmp_path / "run", {"steps": 1, "validate_every_epochs": 0})
    command = [sys.executable, "-m", "alexnet_jax.main", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(list(Path(tmp_path).glob("alexnet_jax/jit_train_step-*"))) == 1
