"""Serves the page of the control room: few routes, few clients, a token.

Whatever a client does, or does not do, ends with its own connection: each has a thread
and a few seconds, and there is a greatest number of them. Standard library only.
"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import ipaddress
import logging
import os
import pathlib
import secrets
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

TOKEN = "FMALIGN_TOKEN"
"""Environment variable: the token, where no file is given."""

MOST_CLIENTS = 32
"""Connections at a time; each lasts for one answer."""

MOST_S = 10.0
"""That a connection may last."""

_POLL_S = 0.2  # between two looks at connections that have lasted too long
_SHORTEST_TOKEN = 16
_COOKIE_S = 90 * 24 * 3600
_PAGES = pathlib.Path(__file__).parent / "control_room"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def read_token(path: pathlib.Path | None) -> str | None:
    """Returns the token that was given; None if none was.

    Args:
      path: of a file that holds it; without one the environment is asked.

    Raises:
      ValueError: it is too short to be a secret, or the file cannot be read.
    """
    try:
        given = os.environ.get(TOKEN) if path is None else path.read_text("utf-8")
    except OSError as error:
        raise ValueError(
            "--token_file must be a file that can be read; got "
            f"{path} ({error.strerror}); correct the path, or who may read it"
        ) from None
    if given is None:
        return None
    token = given.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isprintable():
        raise ValueError(
            f"the token of the page must be one line of at least {_SHORTEST_TOKEN} "
            f"characters; got {len(token)} in {path or TOKEN}; make one by openssl "
            "rand -hex 16"
        )
    return token


class PageServer(http.server.ThreadingHTTPServer):
    """Holds its address until it is left, and answers from `start` on.

    Attributes:
      url: where the page is; with the token, if the server has made it.
    """

    daemon_threads = True
    request_queue_size = MOST_CLIENTS
    # On Windows it would let two servers have the same port.
    allow_reuse_address = os.name == "posix"

    def __init__(
        self, host: str, port: int, token: str | None, data: Callable[[], bytes]
    ) -> None:
        """Takes the address.

        Args:
          host: a name or an address of this machine.
          port: 0 is any that is free.
          token: that a client must have. Beyond this machine there must be one: it is
            made if none is given.
          data: of the page, as JSON.

        Raises:
          ValueError: the address is none, or is taken.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, _, _, _, address = found[0]
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except (OSError, UnicodeError) as error:
            raise ValueError(
                "the page needs an address of this machine and a port that is free; "
                f"got {host}:{port}: {error}; use such as 127.0.0.1:8000"
            ) from None
        self.local = _is_local(str(address[0]))
        made = token is None and not self.local
        if made:
            token = secrets.token_urlsafe(24)
        self.token_digest = None if token is None else _digest(token)
        self.data = data
        self.files = {
            f"/{path.name}": (_TYPES[path.suffix], path.read_bytes())
            for path in _PAGES.iterdir()
            if path.suffix in _TYPES
        }
        if self.local:
            host = str(address[0])  # whatever name led there: it would be refused
        elif ipaddress.ip_address(address[0]).is_unspecified:
            host = socket.gethostname()  # all addresses of this machine
        name = f"[{host}]" if ":" in host else host
        port = self.server_address[1]
        self.url = f"http://{name}:{port}/" + (f"?token={token}" if made else "")
        self.cookie = f"fmalign_{port}"  # a browser keeps them by host alone
        self._ends_s: dict[Any, float] = {}
        self._ends = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), daemon=True
        )

    def server_bind(self) -> None:
        """Takes the address without asking a name server for its name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def start(self) -> None:
        """Begins to answer, in threads of its own."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, unless there are too many."""
        with self._ends:
            full = len(self._ends_s) >= MOST_CLIENTS
            if not full:
                self._ends_s[request] = time.monotonic() + MOST_S
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._ends:
            self._ends_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Ends, from time to time, the connections that have lasted too long."""
        now_s = time.monotonic()
        with self._ends:
            late = [one for one, end_s in self._ends_s.items() if now_s > end_s]
        for request in late:
            try:
                request.shutdown(socket.SHUT_RDWR)  # its thread then closes it
            except OSError:
                continue  # it has gone by itself

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong with an answer, unless the client has just gone."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logging.warning("the page could not answer: %r", error)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection, one answer."""

    server: PageServer

    def do_GET(self) -> None:
        server, url = self.server, urllib.parse.urlsplit(self.path)
        if server.local and not self._names_this_machine():
            self.send_error(403, "the host must be localhost")
        elif url.path == "/state.json":
            if self._may_see():
                self._answer(200, _TYPES[".json"], server.data())
            else:
                self.send_error(401, "a token is needed")
        elif url.path == "/":
            self._answer_page(urllib.parse.parse_qs(url.query).get("token", [""])[0])
        elif url.path in server.files:
            self._answer(200, *server.files[url.path])
        else:
            self.send_error(404)

    def _answer_page(self, token: str) -> None:
        server = self.server
        if token and server.token_digest and _same(_digest(token), server.token_digest):
            # Out of the address, which is shown and kept in the history.
            cookie = (
                f"{server.cookie}={server.token_digest}; Path=/; HttpOnly; "
                f"SameSite=Lax; Max-Age={_COOKIE_S}"
            )
            self._answer(303, _TYPES[".html"], b"", Location="/", Set_Cookie=cookie)
        elif self._may_see():
            self._answer(200, *server.files["/page.html"])
        else:
            self._answer(401, *server.files["/token.html"])

    def _names_this_machine(self) -> bool:
        """Says whether the client knows whom it asks.

        A page of elsewhere may give its own name this machine's address (DNS rebinding)
        and so read what is here; but then the browser asks by that name.
        """
        try:
            host = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return host == "localhost" or _is_local(host or "")

    def _may_see(self) -> bool:
        wanted = self.server.token_digest
        if wanted is None:
            return True
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        found = [_digest(token)] if scheme.lower() == "bearer" else []
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.server.cookie:
                found.append(value)
        return any(_same(digest, wanted) for digest in found)

    def _answer(self, status: int, kind: str, content: bytes, **more: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content))}
        named = {name.replace("_", "-"): value for name, value in more.items()}
        for name, value in (headers | _HEADERS | named).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answers in one line of plain text."""
        said = message or http.server.BaseHTTPRequestHandler.responses[code][0]
        self._answer(code, "text/plain; charset=utf-8", f"{said}\n".encode())

    def version_string(self) -> str:
        """Returns what the server says of itself: nothing of versions."""
        return "fmalign_jax"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: a request a second from each client."""


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())
