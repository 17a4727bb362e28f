"""The manifest of `deploy/`: KubeRay's schema accepts it, and its command is one of ours."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from places import ROOT

from search.cli.program import make_app

jsonschema = pytest.importorskip("jsonschema", reason="it comes with Ray")

SCHEMA = Path(__file__).with_name("rayjob.schema.json")
"""KubeRay's schema of a RayJob; its `$comment` says where it comes from."""


def strict(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text()))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = strict(json.loads(SCHEMA.read_text()))
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def rayjob(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == "RayJob"]
    return found


def test_kuberays_schema_accepts_the_manifest(documents: list[dict[str, Any]], validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(rayjob(documents))] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "backofLimit"), 3, "backofLimit"),
        (("spec", "backoffLimit"), "3", "is not of type 'integer'"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "is not of type 'string'"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "container"), [], "container"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "groupName"), None, "is not of type 'string'"),
    ],
)
def test_the_schema_finds_what_kubernetes_would_refuse(
    documents: list[dict[str, Any]],
    validator: Any,
    path: tuple[str | int, ...],
    value: Any,
    message: str,
) -> None:
    wrong: Any = copy.deepcopy(rayjob(documents))
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(message in error.message for error in validator.iter_errors(wrong))


def test_the_command_of_the_manifest_exists(documents: list[dict[str, Any]]) -> None:
    program, command, *arguments = shlex.split(rayjob(documents)["spec"]["entrypoint"])
    group: Any = typer.main.get_command(make_app())
    run = group.commands[command]
    assert program == "search"
    context = run.make_context(command, arguments, resilient_parsing=False)
    assert (context.params["executor"], context.params["resume"], context.params["take_over"]) == ("ray", True, True)


def test_every_pod_has_the_volumes_that_it_mounts(documents: list[dict[str, Any]]) -> None:
    cluster = rayjob(documents)["spec"]["rayClusterSpec"]
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] in claims
