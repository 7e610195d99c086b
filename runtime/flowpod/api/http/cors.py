"""Calls from the pages of other origins, which a browser lets through only where the server says so."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from flowpod.api.http.middleware import REQUEST_ID_HEADER, SESSION_ID


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app`, open to the pages of `origins`; "*" is every page.

    It stands outside of what asks for a token: a browser sends none with the preflight. Whatever headers a page wants
    to send are allowed, and it may read the session's and the request's id.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=(SESSION_ID, REQUEST_ID_HEADER),
        allow_private_network=True,
    )
