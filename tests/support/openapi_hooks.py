"""Schemathesis' hooks: the rules about a request that OpenAPI 3.0 cannot express, each with the error that names it.

They are the only failures that are not failures; see `tests/e2e/test_openapi_fuzz.py`.
"""

import re
from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

REFUSED = [
    r"user and the header Chat-User-Id name different users",
    r"name the user whose sessions to delete",  # in the query or in the header
    r"Idempotency-Key needs background: true",  # the key is a header, `background` is in the body
    r"Last-Event-ID is \d+, and the run's newest event is \d+",
    r"input 'picture': (expected an image|a request must send images as base64|.*base64|.*http://)",  # pattern of keys
    r"input 'picture' is missing",  # the image of a message would fill it
    r"the last message must be the user's",
    r"it has neither a text nor an image",  # the last message
    r"a background run has no reader",  # `background` and `stream`
    r"background needs a response that is stored",  # `background` and `store`
    r"this Idempotency-Key was used with another request",
]
"""What makes a request invalid although each of its values matches its own schema."""

ACCEPTED = [
    # Inputs and variables are converted to the type that the schema names, as promptflow does.
    r"violates `type` at /properties/(inputs/properties/)?(city|days|key|chat_history|seen)\b",
    r"in body - ([\w-]+ -> )*(city|days|key|chat_history|seen): Incorrect type",
    r"Missing required property: chat_history",  # a request that names a session has the stored one
    r"in header - object with unexpected properties",  # HTTP ignores unknown headers
]
"""What makes a request invalid by the schema although the service accepts it."""


PICTURE = {"data:image/png;base64": "iVBORw0KGgo="}


@schemathesis.hook
def map_case(context: HookContext, case: Case[Any]) -> Case[Any]:
    """Make valid requests keep the rules for images and messages, so that more of them run the flow."""
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE and isinstance(case.body, dict):
        _keep_rules(case.body)
    return case


def _keep_rules(content: dict[str, Any]) -> None:
    if content.get("picture") is not None:
        content["picture"] = PICTURE
    messages = content.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        messages[-1] |= {"role": "user", "content": "hi"}
    for name in ("inputs", "input", "parameters", "biz_params"):
        if isinstance(content.get(name), dict):
            _keep_rules(content[name])


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    if isinstance(failure, RejectedPositiveData):
        return not any(re.search(rule, response.text) for rule in REFUSED)
    if isinstance(failure, AcceptedNegativeData):
        return not any(re.search(rule, failure.message) for rule in ACCEPTED)
    return True
