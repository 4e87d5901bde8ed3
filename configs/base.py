"""The base of every config; alexnet_jax/config.py describes each field."""

from alexnet_jax.config import base_config

__all__ = ["base_config"]
