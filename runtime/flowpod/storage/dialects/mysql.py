"""MySQL and MariaDB: a server that any number of instances share."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal, Self, get_args

from sqlalchemy import BigInteger, bindparam, event, text
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from flowpod.errors import InvalidRequest
from flowpod.storage.dialects.base import ID_LENGTH, POOL_TIMEOUT_S, ColumnTypes, Dialect

SslMode = Literal["disabled", "required", "verify_ca", "verify_identity"]
"""How the server is verified; the words are those of MySQL's own clients."""

_TLS_OPTIONS = ("ssl_mode", "ssl_ca", "ssl_cert", "ssl_key")
_POOL_SIZE = 10
_RECYCLE_S = 1800
_LOCK_WAIT_S = 60
_LOCK_NAME_LENGTH = 64
_DEADLOCK = (1213, 1205)  # ER_LOCK_DEADLOCK and ER_LOCK_WAIT_TIMEOUT
_MAX_CHARACTER_BYTES = 4  # in UTF-8
_ESCAPED = "\\'\"\n\r\0\x1a"  # the characters that the driver writes a backslash before
_STATEMENT_BYTES = 4096  # the statement without its texts


class MySQL(Dialect):
    """The database at `url`, over TLS where a context is given."""

    url_form = "mysql://user:password@host/database"
    column_types: ClassVar[ColumnTypes] = ColumnTypes(
        identifier=mysql.VARCHAR(ID_LENGTH, charset="utf8mb4", collation="utf8mb4_bin"),
        json=mysql.LONGTEXT(),
        time=mysql.DATETIME(fsp=6),
        serial=BigInteger(),
        table_options={"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"},
    )
    ignore_prefix = "IGNORE"
    # Concurrent inserts of one row all hold a shared lock on it, and an update in the same transaction would deadlock.
    inserts_sessions_first = True
    may_stop_responding = True

    def __init__(self, url: URL, tls: ssl.SSLContext | None) -> None:
        self.url = url
        self.tls = tls
        self.password = None if url.password is None else str(url.password)
        self._max_allowed_packet: int | None = None

    @classmethod
    def from_url(cls, url: URL, password: str | None) -> Self | None:
        """Accept `mysql://user@host/database?ssl_mode=...`."""
        if url.drivername != "mysql" or not url.host or not url.database:
            return None
        options = {name: str(value) for name, value in url.query.items()}
        if unknown := sorted(options.keys() - set(_TLS_OPTIONS)):
            known = ", ".join(_TLS_OPTIONS)
            raise InvalidRequest(f"FLOWPOD_HISTORY: unknown option {', '.join(unknown)}; the options are {known}")
        url = url.set(drivername="mysql+aiomysql", query={"charset": "utf8mb4"})
        return cls(url if password is None else url.set(password=password), _tls_context(options))

    def create_engines(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Create one pool for reading and writing."""
        engine = create_async_engine(
            self.url,
            # Without the driver's own time limit, which counts while the event loop is late: see `Database.time_limit`.
            connect_args={"ssl": self.tls},
            # A turn is numbered after waiting for its session's row, and must then read the number that is committed.
            isolation_level="READ COMMITTED",
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
            pool_recycle=_RECYCLE_S,
            hide_parameters=True,
        )
        event.listen(engine.sync_engine, "do_connect", _connect)
        if self.tls is not None:
            event.listen(engine.sync_engine, "connect", _require_tls)
        return engine, engine

    async def read_limits(self, connection: AsyncConnection) -> None:
        """Read how long a statement may be."""
        self._max_allowed_packet = int(await connection.scalar(text("SELECT @@max_allowed_packet")) or 0)

    @asynccontextmanager
    async def migration_lock(self, connection: AsyncConnection, service: str) -> AsyncIterator[None]:
        """Hold a named lock. The server has one set of names for all its databases."""
        name = f"flowpod {service} {self.url.database}"[-_LOCK_NAME_LENGTH:]
        got = await connection.scalar(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": _LOCK_WAIT_S})
        if got != 1:
            raise OperationalError("GET_LOCK", name, TimeoutError("another instance is changing the tables"))
        try:
            yield
        finally:
            await connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})

    def is_deadlock(self, error: OperationalError) -> bool:
        """Return whether the server's error number says so."""
        return bool(error.orig is not None and error.orig.args and error.orig.args[0] in _DEADLOCK)

    def why_too_large(self, texts: Sequence[str]) -> str:
        """Compare the statement's size with the server's `max_allowed_packet`."""
        limit = self._max_allowed_packet
        if limit is None or 2 * sum(map(len, texts)) * _MAX_CHARACTER_BYTES < limit:
            return ""
        size = sum(len(text.encode()) + sum(map(text.count, _ESCAPED)) for text in texts) + _STATEMENT_BYTES
        if size <= limit:
            return ""
        return f"a turn of {size} bytes is over the database's limit (max_allowed_packet, {limit} bytes)"

    async def size_on_disk(self, connection: AsyncConnection, tables: Sequence[str]) -> int:
        """Return what the server's statistics say of the tables and their indexes."""
        query = text(
            "SELECT SUM(data_length + index_length) FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name IN :names"
        ).bindparams(bindparam("names", list(tables), expanding=True))
        return int(await connection.scalar(query) or 0)


def _tls_context(options: Mapping[str, str]) -> ssl.SSLContext | None:
    mode = options.get("ssl_mode", "verify_identity" if "ssl_ca" in options else "disabled")
    if mode not in get_args(SslMode):
        raise InvalidRequest(f"FLOWPOD_HISTORY: ssl_mode is one of {', '.join(get_args(SslMode))}, not {mode!r}")
    if mode == "disabled":
        if given := [name for name in _TLS_OPTIONS[1:] if name in options]:
            raise InvalidRequest(f"FLOWPOD_HISTORY: {', '.join(given)} without TLS; add ssl_mode=verify_identity")
        return None
    if "ssl_key" in options and "ssl_cert" not in options:
        raise InvalidRequest("FLOWPOD_HISTORY: ssl_key needs its certificate; add ssl_cert")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca"))
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(options[name] for name in _TLS_OPTIONS[1:] if name in options)
        raise InvalidRequest(f"FLOWPOD_HISTORY: {files} cannot be used: {error.strerror or error}") from error
    context.check_hostname = mode == "verify_identity"
    if mode == "required":
        context.verify_mode = ssl.CERT_NONE
    return context


def _connect(dialect: Any, record: ConnectionPoolEntry, arguments: Any, options: Any) -> Any:  # noqa: ARG001
    try:
        return dialect.connect(*arguments, **options)
    except RuntimeError as error:  # aiomysql's, when the server closes the connection while it is being opened
        raise ConnectionError(str(error)) from error


def _require_tls(connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ARG001
    # Where the server offers no TLS, or an attacker has removed the offer, the driver continues without encryption.
    cursor = connection.cursor()
    cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
    _, cipher = cursor.fetchone()
    cursor.close()
    if not cipher:
        message = "FLOWPOD_HISTORY asks for TLS and the server does not offer it"
        raise OperationalError("connect", None, ConnectionError(message))
