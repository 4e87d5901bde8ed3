"""Every field, with its unit, its source and the value that the paper gives it.

Not an experiment: the files beside it import `base_config` and change what they need.
§ are sections of the paper, 'code' is the 2012 source (facts in the README's table).
"""

import ml_collections


def base_config() -> ml_collections.ConfigDict:
    """Returns all fields at the paper's values; the data is left to be named."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of weights, dropout, order of pictures and augmentation
    config.batch_size = 128  # pictures in an update, over all devices (§5)
    config.accumulation = 1  # parts that each device computes its share of a batch in
    config.epochs = 90.0  # §5: roughly 90 cycles; the plateau rule may end it before
    config.steps = 0  # updates in all; 0: take epochs
    config.validate_every_epochs = 1.0  # 0: at the end only
    config.log_every_steps = 20  # lines of metrics.jsonl are averages over these
    config.checkpoint_every_steps = 1000
    config.checkpoints_to_keep = 3  # the newest
    config.precision = "float32"  # of the computation: 'float32' | 'bfloat16'

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = -1  # copies of the network; −1: all devices that are left
    mesh.tower = 1  # devices that share one copy: 2 gives each tower its own (§3.2)
    mesh.fc = 1  # copies that share fc6 to fc8 ('One weird trick', Krizhevsky 2014)

    config.dataset = dataset = ml_collections.ConfigDict()
    dataset.source = "folder"  # 'generated' | 'folder' | 'records' | 'tfds'
    dataset.train = ""  # class folders, plain tar, records, split, or how many
    dataset.validation = ""  # the same
    dataset.tfds_name = ""  # such as 'imagenet2012'
    dataset.image_size = 256  # pixels; shorter side, then the central square (§2)
    dataset.workers = 0  # processes that decode; 0: threads of this one
    dataset.threads = 4  # in each process

    config.network = network = ml_collections.ConfigDict()
    network.kernels = (96, 256, 384, 384, 256)  # conv1 to conv5, both towers (§3.5)
    network.units = (4096, 4096)  # fc6 and fc7, both towers (§3.5)
    network.towers = 2  # §3.2
    network.conv1_size = 11  # pixels (§3.5)
    network.conv1_stride = 4  # pixels (§3.5)
    network.normalise_before_relu = False  # §3.3: after; code: before, in conv1
    network.response_depth = 5  # n of §3.3, maps
    network.response_k = 2.0  # §3.3
    network.response_alpha = 1e-4  # §3.3; code divides it by n: 2e-5
    network.response_beta = 0.75  # §3.3
    network.response_range = "tower"  # 'layer': §3.3's N; 'tower': code
    network.spatial_alpha = 0.0  # no such layer in the paper; code: 4e-5
    network.stddevs = (0.01,) * 8  # conv1 … fc8 (§5); code: 0.03 in conv3 to conv5
    network.biases = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)  # conv1 … fc8 (§5)
    network.dropout = 0.5  # of fc6 and fc7 (§4.2)

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.momentum = 0.9  # §5
    optimizer.weight_decay = 0.0005  # of weights, never of biases (§5, code)
    optimizer.rate = 0.01  # of weights, at the start (§5)
    optimizer.bias_rate_multiple = 1.0  # §5: equal for all layers; code: 2
    optimizer.schedule = "plateau"  # §5; 'epochs': as in drops
    optimizer.plateau_factor = 10.0  # §5
    optimizer.plateau_drops = 3  # §5; the next plateau ends the training
    optimizer.patience = 3  # validations without a better error; §5 does not say
    optimizer.drops = ()  # rows of (epoch, weight rate, bias rate)
    optimizer.layer_drops = ml_collections.ConfigDict()  # {'conv1': rows}; 0: frozen

    config.augment = augment = ml_collections.ConfigDict()
    augment.crop = 224  # pixels, side of the network's input (§4.1)
    augment.offsets = 32  # positions a side: ×32·32·2 = 2048 (§4.1); code: 33
    augment.crop_chunk = 1  # pictures that share crop and reflection; code: 32
    augment.reflect = True  # §4.1
    augment.mean_at = "crop"  # §2: 'crop'; code: 'centre', whatever the crop
    augment.colour_noise = 0.1  # standard deviations (§4.1)
    augment.colour_noise_divisor = 1.0  # of noisy pixels; code: 1.1
    augment.colour_noise_until_epoch = 1e9  # never ends; code: by hand at about 66
    return config
