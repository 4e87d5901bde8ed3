"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) in JAX.

A network, and one with the weights of a run:

    from alexnet_jax import AlexNet, load_run

    network = AlexNet()  # Figure 2; its attributes are the config's network.*
    params = network.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    logits = network.apply(params, pixels)  # grey levels less the mean image

    run = load_run("runs/quickstart")
    run.probabilities(images)  # uint8 (N, S, S, 3) → (N, classes)

The apps are functions too: `alexnet_jax.train.train(config, "runs/mine")`, and
`evaluate`, `predict` and `convert` in the modules of these names. A training, step by
step:

    config = load_config("configs/quickstart.py")  # or base_config(), the paper's
    source = open_images(config, "train")
    mesh = make_mesh(config)
    program = make_program(config, len(source.classes), mesh)
    state = program.initialise()
    state, loss = program.train_step(state, batch, mean_image, rates)

examples/library.ipynb runs through all of this. A mistake in a value raises
`InputError`. Importing the package parses no flags and loads no JAX: each name is
imported when it is first used.
"""

import signal
import sys
from pathlib import Path

import lazy_loader

# While an app starts and imports JAX, Ctrl-C ends it without a traceback.
if (
    Path(*sys.argv[:1]).name.startswith(("-m", "alexnet-"))
    and signal.getsignal(signal.SIGINT) == signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.run`

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
