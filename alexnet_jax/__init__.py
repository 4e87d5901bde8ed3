"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) in JAX."""

__version__ = "0.1.0"
