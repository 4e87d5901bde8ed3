"""The one table of fields, and a config.json that an earlier version wrote."""

import json
import math

import ml_collections
import pytest
from runs import tiny_config

from alexnet_jax.config import FIELDS, base_config, check_fields, get_config, parsed
from alexnet_jax.errors import InputError
from alexnet_jax.experiment import check, make_mesh, require_memory
from alexnet_jax.values import flat
from configs import paper, paper_2012_code, quickstart

RUBBISH = (math.nan, math.inf, -math.inf, -1, 0, 1e-320, 1e300, 2**31 - 1, 2**63, "x")

# configs/paper.py as commit 590dde5 wrote it into a config.json, …
PAPER = {
    "accumulation": 1, "batch_size": 128, "checkpoint_every_steps": 1000,
    "checkpoints_to_keep": 3, "epochs": 90.0, "log_every_steps": 20,
    "precision": "float32", "seed": 0, "steps": 0, "validate_every_epochs": 1.0,
    "augment.colour_noise": 0.1, "augment.colour_noise_divisor": 1.0,
    "augment.colour_noise_until_epoch": 1e9, "augment.crop": 224,
    "augment.crop_chunk": 1, "augment.mean_at": "crop", "augment.offsets": 32,
    "augment.reflect": True,
    "dataset.image_size": 256, "dataset.source": "folder", "dataset.tfds_name": "",
    "dataset.threads": 4, "dataset.train": "", "dataset.validation": "",
    "dataset.workers": 0,
    "mesh.data": -1, "mesh.fc": 1, "mesh.tower": 1,
    "network.biases": [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    "network.conv1_size": 11, "network.conv1_stride": 4, "network.dropout": 0.5,
    "network.kernels": [96, 256, 384, 384, 256], "network.normalise_before_relu": False,
    "network.response_alpha": 0.0001, "network.response_beta": 0.75,
    "network.response_depth": 5, "network.response_k": 2.0,
    "network.response_range": "tower", "network.spatial_alpha": 0.0,
    "network.stddevs": [0.01] * 8, "network.towers": 2, "network.units": [4096, 4096],
    "optimizer.bias_rate_multiple": 1.0, "optimizer.drops": [],
    "optimizer.layer_drops": {}, "optimizer.momentum": 0.9, "optimizer.patience": 3,
    "optimizer.plateau_drops": 3, "optimizer.plateau_factor": 10.0,
    "optimizer.rate": 0.01, "optimizer.schedule": "plateau",
    "optimizer.weight_decay": 0.0005,
}  # fmt: skip
# … and the values in which two others differed from it.
CODE = {
    **PAPER, "epochs": 95.0,
    "augment.colour_noise_divisor": 1.1, "augment.colour_noise_until_epoch": 66.0,
    "augment.crop_chunk": 32, "augment.mean_at": "centre", "augment.offsets": 33,
    "network.normalise_before_relu": True, "network.response_alpha": 2e-5,
    "network.spatial_alpha": 4e-5,
    "network.stddevs": [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01],
    "optimizer.bias_rate_multiple": 2.0, "optimizer.schedule": "epochs",
    "optimizer.drops": [[22.0, 0.001, 0.002], [49.0, 1e-4, 0.002], [81.0, 1e-5, 0.002]],
    "optimizer.layer_drops": {"conv1": [[66.0, 1e-5, 0.002], [73.0, 0.0, 0.0]]},
}  # fmt: skip
QUICKSTART = {
    **PAPER, "batch_size": 64, "checkpoint_every_steps": 500, "epochs": 22.0,
    "validate_every_epochs": 5.5,
    "augment.crop": 64, "augment.offsets": 9,
    "dataset.image_size": 72, "dataset.source": "generated", "dataset.threads": 1,
    "dataset.train": "4000", "dataset.validation": "1000",
    "network.kernels": [32, 64, 96, 96, 64], "network.normalise_before_relu": True,
    "network.stddevs": [0.01, 0.017, 0.06, 0.06, 0.06, 0.12, 0.04, 0.04],
    "network.units": [256, 256],
    "optimizer.drops": [[11.0, 0.003, 0.003], [18.0, 0.001, 0.001]],
    "optimizer.schedule": "epochs",
}  # fmt: skip


def as_json(values: dict) -> str:
    """The tree of dotted keys, as a config.json has it."""
    tree: dict = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return json.dumps(tree)


def upgraded(values: dict) -> dict:
    return flat(parsed(as_json(values), "config.json"))


def today(config: ml_collections.ConfigDict, **changes) -> dict:
    """A config of today with some values changed, as flat JSON."""
    config.update_from_flattened_dict({
        name.replace("__", "."): value for name, value in changes.items()
    })  # fmt: skip
    return flat(config)


def test_the_papers_config_of_before_is_todays():
    assert upgraded(PAPER) == today(paper.get_config(), dataset__threads=4)


def test_the_codes_config_of_before_keeps_its_network_and_its_schedule():
    # Its schedule was one of its own: run4.sh's, but with conv1 alone.
    expected = today(
        paper_2012_code.get_config(),
        dataset__threads=4,
        epochs=95.0,
        augment__colour_noise_until_epoch=66.0,
        optimizer__drops=((22.0, 1e-3, 2e-3), (49.0, 1e-4, 2e-3), (81.0, 1e-5, 2e-3)),
        optimizer__layer_drops=(("conv1", 66.0, 1e-5, 2e-3), ("conv1", 73.0, 0.0, 0.0)),
    )
    assert upgraded(CODE) == expected


def test_the_quickstart_of_before_keeps_its_network_and_its_schedule():
    expected = today(
        quickstart.get_config(),
        epochs=22.0,
        validate_every_epochs=5.5,
        dataset__train="4000",
        network__stddevs=(0.01, 0.017, 0.06, 0.06, 0.06, 0.12, 0.04, 0.04),
        network__units=(256, 256),
        optimizer__rate=0.01,
        optimizer__drops=((11.0, 3e-3, 3e-3), (18.0, 1e-3, 1e-3)),
    )
    assert upgraded(QUICKSTART) == expected


def test_conv1_and_the_layers_with_rates_of_their_own_are_carried_over():
    new = upgraded({
        **PAPER,
        "network.conv1_size": 5,
        "network.conv1_stride": 2,
        "network.spatial_alpha": 1e-3,
        "optimizer.layer_drops": {"conv1": [[1, 0.1, 0.2]], "fc8": [[2, 0.3, 0.4]]},
    })  # fmt: skip
    assert new["network.sizes"] == [5, 5, 3, 3, 3]
    assert new["network.strides"] == [2, 1, 1, 1, 1]
    assert new["network.paddings"] == [0, 2, 1, 1, 1]
    assert new["network.spatial_alpha"] == 1e-3
    assert new["network.layers"][:10] == [
        "conv1", "relu", "normalise", "pool",
        "conv2", "relu", "normalise", "normalise_within_maps", "pool", "exchange",
    ]  # fmt: skip
    rows = [["conv1", 1, 0.1, 0.2], ["fc8", 2, 0.3, 0.4]]
    assert new["optimizer.layer_drops"] == rows


def test_a_config_before_meshes_of_fully_connected_layers_is_read_too():
    older = {
        key: value
        for key, value in PAPER.items()
        if key not in ("mesh.fc", "accumulation", "optimizer.layer_drops")
    }
    assert upgraded(older) == upgraded(PAPER)


def test_a_config_of_today_comes_back_as_it_was_written():
    for module in (paper, paper_2012_code, quickstart):
        values = flat(module.get_config())
        assert upgraded(values) == values


def test_the_table_is_a_config_file_of_the_paper_and_of_a_config_json(tmp_path):
    assert flat(get_config()) == flat(paper.get_config())
    path = tmp_path / "config.json"
    path.write_text(as_json(CODE))
    assert flat(get_config(str(path))) == upgraded(CODE)
    # As tuples, whose flags are read as those of any config.
    assert get_config(str(path)).network.sizes == (11, 5, 3, 3, 3)
    path.write_text("{rubbish")
    with pytest.raises(InputError, match=f"{path}: not the JSON of a config"):
        get_config(str(path))


def test_the_base_has_exactly_the_fields_and_each_is_within_its_bound():
    assert flat(base_config()).keys() == FIELDS.keys()
    check_fields(flat(base_config()))
    for key, field in FIELDS.items():
        assert field.source, f"{key}: has neither unit nor source"
        assert field.bound(object()), f"{key}: takes anything"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network.kernels": None}, "network.kernels=None: must be a list"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number, 1 or more"),
        ({"network.colour": 1}, "network.colour"),
        ({"network.towers": "two"}, "towers"),
    ],
)
def test_what_does_not_fit_names_the_file_and_the_key(change, reason):
    with pytest.raises(InputError) as refused:
        upgraded({**PAPER, **change})
    assert str(refused.value).startswith("config.json: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def refusal_of(key: str, value) -> str:
    """The line with which a training refuses a value of a key; '' where it does not."""
    config = tiny_config()
    if key.startswith("optimizer.p"):
        config.optimizer.schedule = "plateau"
    if isinstance(FIELDS[key].value, tuple):
        value = (value, *FIELDS[key].value[1:])
    try:
        with config.ignore_type():
            config.update_from_flattened_dict({key: value})
        check(config)
        require_memory(config, 10, make_mesh(config), training=True)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", FIELDS)
def test_every_key_takes_a_value_or_refuses_it_in_one_line(key):
    lines = {value: refusal_of(key, value) for value in RUBBISH}
    taken = {value for value, line in lines.items() if not line}
    for line in set(lines.values()) - {""}:
        assert "\n" not in line
        assert any(name in line for name in FIELDS), line
    # What float32 cannot hold is taken nowhere, and infinity as "never" alone.
    assert not taken & {math.nan, -math.inf, 1e-320, 1e300}
    assert math.inf not in taken or key == "augment.colour_noise_until_epoch"
    assert taken != set(RUBBISH)
