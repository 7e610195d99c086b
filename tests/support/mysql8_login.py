"""MySQL 8's login in front of MariaDB, which does not have it: caching_sha2_password, then what the client says.

The wire format is that of the MySQL client/server protocol's connection phase (dev.mysql.com, "Connection Phase
Packets" and "Caching_sha2_password information"). A client's first login is "full": it asks for the server's key and
sends its password encrypted; later ones are "fast", by a scramble.
"""

import hashlib
import secrets
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_PLUGIN = b"caching_sha2_password"
_CAPABILITIES = 0x00FFFFFF & ~0x800 & ~0x20 & ~0x100000  # neither TLS, nor compression, nor attributes of the client
_OK = b"\x00\x00\x00\x02\x00\x00\x00"
_FAST, _FULL = b"\x01\x03", b"\x01\x04"


class Login(socketserver.ThreadingTCPServer):
    """Takes clients that know the password, and connects them to MariaDB; `logins` says how each came in."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, backend: int, user: str, password: str) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.backend, self.user, self.password = backend, user, password
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.known = False
        self.logins: list[str] = []


class _Client(socketserver.BaseRequestHandler):
    server: Login

    def handle(self) -> None:
        self._number = -1
        self._salt = bytes(secrets.choice(range(1, 128)) for _ in range(20))
        self._send(self._greeting())
        response = self._receive()
        client_flags = struct.unpack("<I", response[:4])[0]
        user, rest = response[32:].split(b"\0", 1)
        proof, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        database = rest.split(b"\0", 1)[0].decode()
        if user.decode() != self.server.user or not self._proves(proof):
            self._send(b"\xff\x15\x04#28000Access denied")
            return
        with pymysql.connect(
            host="127.0.0.1",
            port=self.server.backend,
            user=self.server.user,
            password=self.server.password,
            database=database,
            client_flag=client_flags & ~0x800,
        ) as backend:
            self._send(_OK)
            self._relay(backend._sock)  # type: ignore[attr-defined]  # the packets from here on are the client's own

    def _greeting(self) -> bytes:
        head = b"\x0a8.4.0\0" + struct.pack("<I", 1) + self._salt[:8] + b"\0"
        flags = struct.pack("<HBHHB", _CAPABILITIES & 0xFFFF, 45, 2, _CAPABILITIES >> 16, 21)
        return head + flags + bytes(10) + self._salt[8:] + b"\0" + _PLUGIN + b"\0"

    def _proves(self, proof: bytes) -> bool:
        password = self.server.password.encode()
        if self.server.known:
            once = hashlib.sha256(password).digest()
            mask = hashlib.sha256(hashlib.sha256(once).digest() + self._salt).digest()
            self.server.logins.append("fast")
            self._send(_FAST)
            return proof == bytes(a ^ b for a, b in zip(once, mask, strict=True))
        self.server.logins.append("full")
        self._send(_FULL)
        assert self._receive() == b"\x02"
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        self._send(b"\x01" + self.server.key.public_key().public_bytes(serialization.Encoding.PEM, kind))
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        masked = self.server.key.decrypt(self._receive(), oaep)
        given = bytes(byte ^ self._salt[place % 20] for place, byte in enumerate(masked))
        self.server.known = given == password + b"\0"
        return self.server.known

    def _relay(self, backend: socket.socket) -> None:
        back = threading.Thread(target=_copy, args=(backend, self.request), daemon=True)
        back.start()
        _copy(self.request, backend)
        back.join()

    def _send(self, payload: bytes) -> None:
        self._number += 1
        self.request.sendall(struct.pack("<I", len(payload))[:3] + bytes([self._number]) + payload)

    def _receive(self) -> bytes:
        head = _exactly(self.request, 4)
        self._number = head[3]
        return _exactly(self.request, int.from_bytes(head[:3], "little"))


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise ConnectionError("the client left")
        data += piece
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has left


@contextmanager
def mysql8_login(backend: int, user: str, password: str) -> Iterator[Login]:
    """Run the login in front of the MariaDB at the port `backend`."""
    with Login(backend, user, password) as login:
        threading.Thread(target=login.serve_forever, daemon=True).start()
        yield login
        login.shutdown()
