"""The examples for clusters fit the schemas of their APIs, and the documentation shows them as they are. No cluster runs them here.

What Docker can run of the examples is run in tests/images/test_consume.py.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "consume.md"
# The first release that has image volumes, the first where they need no feature gate, and the newest that the package knows.
KUBERNETES = ("1.31", "1.35", "1.37")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("release", KUBERNETES)
def test_the_pod_fits_the_schema_of_kubernetes(release: str) -> None:
    assert kubernetes_validate.validate(read("kubernetes/pod.yaml"), release, strict=True) == release


def test_the_release_before_image_volumes_refuses_the_pod() -> None:
    """A check of the check."""
    with pytest.raises(kubernetes_validate.ValidationError, match="'image' was unexpected"):
        kubernetes_validate.validate(read("kubernetes/pod.yaml"), "1.30", strict=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "volumes", 0, "image", "ref"), "x"),
        (("spec", "volumes", 0, "image", "reference"), 1),
        (("spec", "containers", 0, "volumeMounts", 0, "path"), "/x"),
        (("spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"), "yes"),
    ],
)
def test_a_wrong_field_in_the_pod_would_be_found(place: tuple[str | int, ...], value: object) -> None:
    pod = changed(read("kubernetes/pod.yaml"), place, value)

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES[-1], strict=True)


def kserve_schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "inferenceservice.schema.json").read_bytes())
    return found


def test_the_inference_service_fits_the_schema_of_kserve() -> None:
    jsonschema.validate(read("kubernetes/kserve.yaml"), kserve_schema())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "predictor", "storageUri"), "oci://example.com/x"),
        (("spec", "predictor", "containers", 0, "image"), ["x"]),
        (("spec", "predictor", "containers", 0, "env", 0, "val"), "x"),
        (("spec", "predictor", "minReplicas"), "1"),
        (("spec", "predictors"), {}),
    ],
)
def test_a_wrong_field_in_the_inference_service_would_be_found(place: tuple[str | int, ...], value: object) -> None:
    service = changed(read("kubernetes/kserve.yaml"), place, value)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, kserve_schema())


def changed(document: dict[str, Any], place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The document with another value at a place."""
    document = copy.deepcopy(document)
    at: Any = document
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return document


def test_the_pod_asks_for_what_it_needs_and_for_no_more() -> None:
    pod = read("kubernetes/pod.yaml")["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    environment = {one["name"]: one["value"] for one in container["env"]}

    assert mount["name"] == volume["name"]
    # The models stand at /models in the image; a subPath would need Kubernetes 1.33.
    assert environment["MODELBAKE_MODELS"] == f"{mount['mountPath']}/models"
    assert "subPath" not in mount
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "kubernetes/pod.yaml", "kubernetes/kserve.yaml"])
def test_the_documentation_shows_the_example_as_it_is(name: str) -> None:
    shown = re.findall(
        r"^```(?:dockerfile|yaml)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )

    assert (EXAMPLES / name).read_text(encoding="utf-8") in shown
    assert f"](../examples/{name})" in PAGE.read_text(encoding="utf-8")
