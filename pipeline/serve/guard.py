"""The door of the page: who may come in, through which entrances, and what browsers are told to allow.

Plain ASGI, around the whole application, so that nothing behind it can be reached otherwise.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mesm.pipeline.report.served_page import render_token_page

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_EVENT = 64 * 1024
"""Bytes of what the page may send that is no film."""
UPLOADS = "/uploads"
READ = re.compile(
    r"/|/(?:films|stills|previews|cuts)/[0-9a-f]{32}|/(?:config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    r"|/(?:assets|static|svelte)/[^\\]*|/gradio_api/(?:startup-events|theme\.css|queue/data|heartbeat/[\w-]+)"
)
"""What is read. All else that Gradio can hand out is closed: files, addresses elsewhere, descriptions of the API."""
WRITE = re.compile(rf"{UPLOADS}|/gradio_api/(?:queue/join|cancel|reset)/?")
"""What is written."""
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_VISITOR = re.compile(r"[0-9a-f]{32}")


def visitor_of(cookies: dict[str, str], port: int) -> str:
    """Return who a request is from; empty for nobody."""
    found = cookies.get(visitor_cookie(port), "")
    return found if _VISITOR.fullmatch(found) else ""


def visitor_cookie(port: int) -> str:
    """Return the cookie's name; cookies are those of a host, whatever the port."""
    return f"mesm_visitor_{port}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    return host in _LOOPBACK or bool(re.fullmatch(r"127(?:\.\d{1,3}){3}", host))


class Guard:
    """Lets requests pass to an application, or answers them itself."""

    def __init__(self, app: App, host: str, port: int, token: str = "") -> None:
        """host, port: where it listens. On a loopback address, only requests to such a name are answered: a name of
        another site that leads here is none. token: what visitors have to know, if anything.
        """
        self._app, self._port, self._token = app, port, token
        self._local = is_loopback(host)
        self._token_cookie = f"mesm_token_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        cookies = cookies_of(headers.get("cookie", ""))
        method, path = scope["method"], scope["path"]
        if self._local and not _names_this_machine(headers.get("host", "")):
            return await _refuse(send, 421, "This page is served to this machine alone.")
        if not await self._is_known(scope, cookies, send):
            return None
        if not (READ if method in ("GET", "HEAD") else WRITE if method == "POST" else _NONE).fullmatch(path):
            return await _refuse(send, 404, "There is nothing here.")
        if method == "POST":
            origin = headers.get("origin", "")
            if origin and urlsplit(origin).netloc != headers.get("host", ""):
                return await _refuse(send, 403, "Another site may not do this.")
            size = headers.get("content-length", "")
            if path != UPLOADS and not (size.isdigit() and int(size) <= LARGEST_EVENT):
                return await _refuse(send, 413, "That is too much.")
        added = dict(HEADERS)
        if path == "/" and not visitor_of(cookies, self._port):
            added["set-cookie"] = _cookie(visitor_cookie(self._port), secrets.token_hex(16))
        return await self._app(scope, receive, _adding(send, added))

    async def _is_known(self, scope: Scope, cookies: dict[str, str], send: Send) -> bool:
        """Tell whether a request has the token; else it is answered."""
        if not self._token or _same(cookies.get(self._token_cookie, ""), self._token):
            return True
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        at_home = scope["method"] == "GET" and scope["path"] == "/"
        if at_home and _same(given, self._token):
            # The token goes out of the address, where others could read it.
            cookie = _cookie(self._token_cookie, self._token)
            await _reply(send, 303, b"", {**HEADERS, "location": "./", "set-cookie": cookie})
        elif at_home:
            page = render_token_page(wrong=bool(given)).encode()
            await _reply(send, 401, page, {**HEADERS, "content-type": "text/html; charset=utf-8"})
        else:
            await _refuse(send, 401, "The token is missing.")
        return False


_NONE = re.compile(r"(?!)")


def cookies_of(header: str) -> dict[str, str]:
    """Read a Cookie header; nothing where it is malformed."""
    try:
        return {name: one.value for name, one in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie(name: str, value: str) -> str:
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Lax"


def _adding(send: Send, added: dict[str, str]) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(name, value) for name, value in message.get("headers", []) if name.decode().lower() not in added]
            more = [(name.encode(), value.encode()) for name, value in added.items()]
            message = {**message, "headers": [*own, *more]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, text: str) -> None:
    await _reply(send, status, text.encode(), {**HEADERS, "content-type": "text/plain; charset=utf-8"})


async def _reply(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
