"""CORS: which web pages of other origins may call the API."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from flowpod.api.http.middleware import HISTORY, REQUEST_ID_HEADER, SESSION_ID


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app` with CORS for pages of `origins`; "*" allows every page.

    This must wrap the token check, because a preflight request carries no token. Pages may send any header and read the
    session id and request id of a response, and whether its turn is stored.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=(SESSION_ID, REQUEST_ID_HEADER, HISTORY),
        allow_private_network=True,
    )
