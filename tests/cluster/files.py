"""The files of cluster/, and strict schemas for those of Kubernetes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = [*sorted((CLUSTER / "kuberay").glob("*.yaml")), CLUSTER / "mlflow/kubernetes.yaml"]
_SCHEMAS = ROOT / "tests/fixtures/kubernetes"
_VERSIONS = {
    "RayJob": "ray.io/v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "Service": "v1",
    "PersistentVolumeClaim": "v1",
}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def strict(name: str) -> dict[str, Any]:
    """The schemas of a file of fixtures, in which unknown keys are mistakes."""
    schemas: dict[str, Any] = json.loads((_SCHEMAS / name).read_text())
    _close(schemas)
    return schemas


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for each in schema:
            _close(each)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        schema["additionalProperties"] = False
    for each in schema.values():
        _close(each)


KUBERAY, BUILTIN = strict("kuberay-1.7.0.json"), strict("kubernetes-1.37.json")
_META = {**BUILTIN["kinds"]["Deployment"]["properties"]["metadata"], "$defs": BUILTIN["$defs"]}


def mistakes(document: Any) -> list[str]:
    """What Kubernetes or KubeRay would refuse or ignore in a manifest."""
    kind = document.get("kind")
    schemas = KUBERAY if kind in KUBERAY["kinds"] else BUILTIN
    if document.get("apiVersion") != _VERSIONS.get(kind):
        return [f"apiVersion {document.get('apiVersion')} of {kind}"]
    found = Draft202012Validator({**schemas["kinds"][kind], "$defs": schemas["$defs"]}).iter_errors(document)
    meta = Draft202012Validator(_META).iter_errors(document.get("metadata"))
    return [f"{'/'.join(map(str, each.absolute_path))}: {each.message[:200]}" for each in (*found, *meta)]


def commands(path: Path) -> Iterator[str]:
    """The gallop-ray commands of a file, also in comments, in lists of YAML, and over several lines of a script."""
    text = re.sub(r"\\\n#?", " ", path.read_text())
    yield from (found.strip() for found in re.findall(r"(?:^|[\s`])(gallop-ray [a-z][^`&|;\n]*)", text))
