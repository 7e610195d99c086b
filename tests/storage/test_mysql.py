"""What only MySQL has: TLS, and the login of MySQL 8."""

from pathlib import Path

import pytest
import trustme
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from tests.support.history import opened, turn
from tests.support.mariadb import PASSWORD, USER, MariaDB, running_mariadb
from tests.support.mysql8_login import mysql8_login

pytestmark = pytest.mark.needs("mariadbd")


async def stores_a_turn(url: str) -> bool:
    async with opened(url) as (_, store):
        await store.add_turn(turn())
        stored = await store.find_session("s", 1)
    return stored is not None and len(stored.history) == 1


async def test_the_login_of_mysql_8_works_with_and_without_its_cache(mariadb: MariaDB, mysql_url: str) -> None:
    with mysql8_login(mariadb.port, USER, PASSWORD) as login:
        url = make_url(mysql_url).set(port=login.server_address[1]).render_as_string(hide_password=False)
        assert await stores_a_turn(url)
        assert await stores_a_turn(url)
        assert login.logins[0] == "full"
        assert set(login.logins[1:]) == {"fast"}
        with pytest.raises(OperationalError, match="Access denied"):
            await stores_a_turn(make_url(url).set(password="wrong").render_as_string(hide_password=False))


async def test_tls_verifies_the_server(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    ca, other_ca, cert, key = (tmp_path / name for name in ("ca.pem", "other.pem", "cert.pem", "key.pem"))
    ours.cert_pem.write_to_path(ca)
    others.cert_pem.write_to_path(other_ca)
    issued = ours.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    options = (f"--ssl-cert={cert}", f"--ssl-key={key}", "--require-secure-transport=ON")
    with running_mariadb(tmp_path / "server", *options) as server:
        url = server.new_database("d")
        for query in (f"?ssl_ca={ca}", f"?ssl_ca={ca}&ssl_mode=verify_ca", "?ssl_mode=required"):
            assert await stores_a_turn(url + query)
        for query in ("", f"?ssl_ca={other_ca}", "?ssl_mode=verify_identity"):
            with pytest.raises(OperationalError):
                await stores_a_turn(url + query)
        named = url.replace("127.0.0.1", "localhost")  # a name that the certificate does not have
        with pytest.raises(OperationalError):
            await stores_a_turn(f"{named}?ssl_ca={ca}")


async def test_a_server_without_tls_is_refused_when_tls_is_required(mysql_url: str) -> None:
    with pytest.raises(OperationalError, match="asks for TLS and the server does not offer it"):
        await stores_a_turn(f"{mysql_url}?ssl_mode=required")
