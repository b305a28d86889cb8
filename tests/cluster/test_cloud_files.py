"""``kuberay.yaml``, ``aws.yaml`` and ``gcp.yaml`` as Kubernetes and Ray's launcher read them."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import moto
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.aws import config as aws
from ray.autoscaler._private.util import prepare_config, validate_config

from search.command_line import register
from search.config import DATA_DEFAULTS
from spaces import shipped_spaces
from trainers.settings import setting_names

FILES = Path(__file__).parents[2] / "cluster"


def read(name: str) -> Any:
    return yaml.safe_load((FILES / name).read_text())


def closed(schema: Any) -> Any:
    """The schema where an object has no properties but those it lists: Kubernetes would drop the others silently."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    more = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {name: closed(value) for name, value in schema.items()} | more


@pytest.fixture(scope="module")
def rayjob() -> Draft202012Validator:
    schema = yaml.safe_load((Path(__file__).parent / "rayjob_schema.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(closed(schema))


def cluster_of(job: Any) -> Any:
    return job["spec"]["rayClusterSpec"]


def pods_of(job: Any) -> list[Any]:
    groups = [cluster_of(job)["headGroupSpec"], *cluster_of(job)["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_rayjob_is_one(rayjob: Draft202012Validator) -> None:
    job = read("kuberay.yaml")
    rayjob.validate(job)
    cluster = cluster_of(job)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["enableInTreeAutoscaling"]
    for pod in pods_of(job):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        keys = {item["name"]: item for container in pod["containers"] for item in container["env"]}
        assert "value" not in keys["WANDB_API_KEY"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda job: cluster_of(job).update(authOption={"mode": "token"}), "'authOption' was unexpected"),
        (lambda job: cluster_of(job)["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda job: job["spec"].update(shutdownAfterJobFinished=True), "unexpected"),
        (lambda job: pods_of(job)[1].update(toleration=[]), "unexpected"),
        (lambda job: pods_of(job)[0]["containers"][0]["resources"]["limits"].update(memory="8GiB"), "not valid"),
        (
            lambda job: cluster_of(job)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            "not of type 'string'",
        ),
        (lambda job: cluster_of(job).pop("headGroupSpec"), "'headGroupSpec' is a required property"),
    ],
)
def test_a_mistake_in_the_rayjob_is_seen(
    rayjob: Draft202012Validator, spoil: Callable[[Any], object], message: str
) -> None:
    job = copy.deepcopy(read("kuberay.yaml"))
    spoil(job)
    with pytest.raises(ValidationError, match=message):
        rayjob.validate(job)


def test_the_search_of_the_rayjob_has_settings_that_exist() -> None:
    entrypoint = read("kuberay.yaml")["spec"]["entrypoint"]
    given = dict(re.findall(r"(?<![\w/$])([a-z_]+(?:\.[a-z_]+)*)=([^\s;']+)", entrypoint))
    given.pop("name")
    assert given.keys() <= {*setting_names(register()), "space", "data", "cluster"}
    assert given["space"] in shipped_spaces()
    assert given["data"] in DATA_DEFAULTS
    assert (given["cluster"], given["cluster.address"]) == ("address", "auto")


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_launcher_takes_the_file(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert (types["gpu"]["min_workers"], types["gpu"]["resources"]["GPU"]) == (0, 1)
    starting = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [line for line in starting if "ray start" in line]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in started)
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in started[0]
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        assert f":{version('ray')}-py3" in image


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_misspelt_field_of_the_launcher_is_seen(name: str) -> None:
    config = read(name)
    config["setup_command"] = config.pop("setup_commands")
    with pytest.raises(ValidationError, match="setup_command"):
        validate_config(prepare_config(config))


@pytest.mark.cluster
def test_on_aws_only_ssh_is_open_to_the_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "none")
    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher makes an ssh key there
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    config = prepare_config(read("aws.yaml")) | {"head_node": {}}
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        ready = aws.bootstrap_aws(config)  # type: ignore[no-untyped-call]
        groups = boto3.client("ec2", region_name=config["provider"]["region"]).describe_security_groups()
    types = ready["available_node_types"]
    group = next(item for item in groups["SecurityGroups"] if item["GroupName"] == "segmentation-search")
    assert {identity for kind in types.values() for identity in kind["node_config"]["SecurityGroupIds"]} == {
        group["GroupId"]
    }
    world = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]
