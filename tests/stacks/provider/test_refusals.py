"""Which answers of an API server are worth another try, and how they are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sovereign.errors import ClusterError, SovereignError, TemporaryClusterError
from stacks.kubehttp import ImmutableError, NotFoundError, refusal
from stacks.provider.errors import redact


def answer(code: int, message: str, reason: str = "", **details: Any) -> ClusterError:
    status = {"kind": "Status", "message": message, "reason": reason, "code": code, "details": details}
    return refusal(code, json.dumps(status).encode(), "Deployment shop/web")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (409, "Operation cannot be fulfilled: the object has been modified"),
        (429, "storage is (re)initializing"),
        (
            500,
            'failed calling webhook "m.kueue.io": Post "https://x": dial tcp 10.0.0.1:443: connect: connection refused',
        ),
        (500, 'failed calling webhook "m.kueue.io": no endpoints available for service "kueue-webhook-service"'),
        (503, "the server is currently unable to handle the request"),
    ],
)
def test_temporary_errors(code: int, message: str) -> None:
    assert isinstance(answer(code, message), TemporaryClusterError)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (400, "the API version in the data does not match"),
        (401, "Unauthorized"),
        (403, 'deployments.apps is forbidden: User "x" cannot patch'),
        (403, "exceeded quota: compute, requested: cpu=8, used: cpu=0, limited: cpu=2"),
        (422, "Deployment is invalid"),
        (
            500,
            "failed to create typed patch object (a/b; apps/v1, Kind=X): .spec.x: field not declared in schema",
        ),
    ],
)
def test_permanent_errors(code: int, message: str) -> None:
    error = answer(code, message)
    assert not isinstance(error, TemporaryClusterError)
    assert "Deployment shop/web" in str(error) and message in str(error)


def test_causes_name_field_and_reason() -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.template.spec.containers[0].name"},
        {"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be >= 0", "field": "spec.replicas"},
    ]
    error = answer(422, "Deployment.apps is invalid: [...]", "Invalid", causes=causes)
    assert str(error) == (
        "Deployment shop/web: refused by the API server (422 Invalid)\n"
        "  got: spec.template.spec.containers[0].name: Required value; spec.replicas: Invalid value: -1: must be >= 0"
    )


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("spec.selector", 'Invalid value: {"matchLabels":{"a":"b"}}: field is immutable'),
        ("spec", "Forbidden: updates to statefulset spec for fields other than 'replicas', 'template' are forbidden"),
        ("spec", "Forbidden: spec is immutable after creation except resources.requests for bound claims"),
        ("roleRef", "Invalid value: {}: cannot change roleRef"),
        ("value", "Forbidden: may not be changed in an update."),
        ("spec.clusterIPs[0]", 'Invalid value: ["10.0.0.1"]: may not change once set'),
    ],
)
def test_fields_that_cannot_change(field: str, message: str) -> None:
    error = answer(422, "invalid", "Invalid", causes=[{"message": message, "field": field}])
    assert isinstance(error, ImmutableError) and error.fields == (field,)


def test_object_that_would_be_refused_anyway_is_not_replaced() -> None:
    causes = [
        {"message": "Invalid value: x: field is immutable", "field": "spec.selector"},
        {"message": "Invalid value: -1: must be greater than 0", "field": "spec.replicas"},
    ]
    assert not isinstance(answer(422, "invalid", "Invalid", causes=causes), ImmutableError)


def test_missing_namespace_is_told_apart_from_a_missing_object() -> None:
    error = answer(404, 'namespaces "shop" not found', "NotFound", name="shop", kind="namespaces")
    assert isinstance(error, NotFoundError) and error.missing == "namespaces shop"


def test_namespace_that_is_going_is_waited_for() -> None:
    error = answer(
        403, "forbidden: being terminated", "Forbidden", causes=[{"reason": "NamespaceTerminating", "message": "x"}]
    )
    assert isinstance(error, TemporaryClusterError)


def test_long_causes_are_cut_in_the_middle_and_answers_that_are_no_json_are_shown() -> None:
    long = answer(422, "x", "Invalid", causes=[{"field": "spec", "message": f"Invalid value: {'y' * 9000}: is wrong"}])
    assert len(str(long)) < 600 and str(long).endswith("is wrong")
    assert "upstream is down" in str(refusal(502, b"upstream is down", "x"))


def test_secrets_are_taken_out_of_an_error() -> None:
    error = SovereignError("wrong: hunter22-more", got={"a": "hunter22"})
    redact(error, ["hunter22", "hunter22-more", "a"])
    assert str(error) == "wrong: [secret]\n  got: {'a': '[secret]'}"
