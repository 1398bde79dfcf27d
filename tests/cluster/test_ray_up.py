"""The files for `ray up`: valid by Ray's own schema; planted mistakes are found; slots as doctor counts them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from gallop_ray.slots.coming import workers_of
from gallop_ray.spec.machine import ResourcesSpec
from tests.cluster.files import CLUSTER

FILES = sorted((CLUSTER / "ray-up").glob("*.yaml"))
_ONE_GPU = ResourcesSpec(gpus_per_worker=1, cpus_per_worker=4)


def _prepared(config: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_valid_and_grows_to_the_slots_that_doctor_counts(path: Path) -> None:
    config = _prepared(yaml.safe_load(path.read_text()))
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert workers_of(config, _ONE_GPU) == config["max_workers"] == 8
    assert any("mount -t nfs" in each for each in config["initialization_commands"]), "the folder that all share"
    assert "--volume=/mnt/shared:/shared" in config["docker"]["run_options"]


@pytest.mark.parametrize("place", [(), ("provider",), ("available_node_types", "gpu-spot"), ("docker",)])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_planted_mistake_is_found(path: Path, place: tuple[str, ...]) -> None:
    config = yaml.safe_load(path.read_text())
    part = config
    for key in place:
        part = part[key]
    part["mistaken"] = 1
    if place == ("provider",):  # Ray leaves it open for providers of others
        part["type"] = 1
    with pytest.raises(Exception, match=r"mistaken|Unsupported node provider"):
        _prepared(config)
