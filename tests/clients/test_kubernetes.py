"""The recipe for Kubernetes (deploy/kubernetes/) against Kubernetes' own schemas. No cluster runs it.

The schema of KubeRay's objects is in no package; the pods in them are checked as the templates that they are.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import ServerSettings
from worker.settings import WorkerSettings

pytestmark = pytest.mark.clients
RECIPE = Path(__file__).parents[2] / "deploy" / "kubernetes"


def objects() -> list[dict[str, Any]]:
    return [each for file in sorted(RECIPE.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())]


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """The templates of pods anywhere in an object."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for each in value.values():
            yield from pods(each)
    elif isinstance(value, list):
        for each in value:
            yield from pods(each)


def test_all_objects_have_the_fields_that_kubernetes_knows(python_programs: Path, tmp_path: Path) -> None:
    checked = []
    for each in objects():
        if each["apiVersion"].startswith("ray.io/"):
            name = each["metadata"]["name"]
            for number, pod in enumerate(pods(each)):
                metadata = {"name": f"{name}-{number}"}
                checked.append({"apiVersion": "v1", "kind": "PodTemplate", "metadata": metadata, "template": pod})
        else:
            checked.append(each)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(checked))
    command = [python_programs / "kubernetes-validate", "--strict", tmp_path / "all.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\bpassed\b", done.stdout + done.stderr)) == len(checked) == 7


def test_variables_are_settings_and_secrets_are_references() -> None:
    known = {f"RVC_TRAIN_{name.upper()}" for name in ServerSettings.model_fields | WorkerSettings.model_fields}
    secret = {"RVC_TRAIN_TOKEN", "RVC_TRAIN_DATABASE_URL"}
    containers = [container for each in objects() for pod in pods(each) for container in pod["spec"]["containers"]]
    variables = [variable for container in containers for variable in container.get("env", [])]
    assert {variable["name"] for variable in variables} <= known
    assert secret <= {variable["name"] for variable in variables}
    assert all("secretKeyRef" in each["valueFrom"] for each in variables if each["name"] in secret)


def test_services_and_volumes_that_are_named_are_there() -> None:
    found = objects()
    for each in found:
        for pod in pods(each):
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            mounts = {mount["name"] for part in pod["spec"]["containers"] for mount in part.get("volumeMounts", [])}
            assert mounts == volumes
    (service,) = (each for each in found if each["kind"] == "Service")
    (server,) = (each for each in found if each["metadata"]["name"] == "rvc-train-server")
    assert service["spec"]["selector"].items() <= server["spec"]["template"]["metadata"]["labels"].items()
    urls = re.findall(
        r"http://([\w-]+):(\d+)", (RECIPE / "workers.yaml").read_text() + (RECIPE / "ray.yaml").read_text()
    )
    assert set(urls) == {(service["metadata"]["name"], str(service["spec"]["ports"][0]["port"]))}
