"""The network and its training as the text of the paper prints them.

    python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper \
        --config.dataset.train=ILSVRC2012/train \
        --config.dataset.validation=ILSVRC2012/val

Expect, after 90 epochs of ImageNet: 40.7 % top-1 and 18.2 % top-5 error over ten views
of the validation images is what the paper reports (Table 2, '1 CNN'). The paper took
five to six days on two GTX 580.

Where the text cannot be followed to the letter, or is silent:

- Colour noise (§4.1): the formula multiplies by the eigenvalues of the covariance; at
  ±1,483 grey levels nothing would be left of an image. The standard deviations, their
  square roots, are used, as in the 2012 code.
- Response normalisation (§3.3): N is 'the total number of kernels in the layer', but
  windows across the towers would make the GPUs talk where §3.2 says that they do not.
  They end with the tower, as in the code; `network.response_range='layer'` is the text.
- Crops (§4.1): 2048 = 32·32·2 variants, so offsets 0 to 31 of the 33 possible ones.
- The mean is subtracted 'from each pixel' (§2): where the crop was taken.
- Weight decay (§5): of 'w', read as the weights; biases do not decay.
- 'Stopped improving' (§5): three validations in a row without a better top-1 error.
- Biases of 1 with weights of deviation 0.01 everywhere make a long first plateau at a
  loss of ln(1000) = 6.91; the 2012 code really started conv3 to conv5 from 0.03.
"""

from alexnet_jax.config import base_config


def get_config():
    """The paper's values, which are those of the base."""
    return base_config()
