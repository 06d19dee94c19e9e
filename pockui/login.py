"""The password of a server that others can reach: Panel's login, compared in constant time."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from urllib.parse import urlencode

from panel.auth import BasicAuthProvider, BasicLoginHandler, _validate_next_url
from panel.io.state import state

from pockgraph.errors import PockError

MIN_LENGTH = 8
WRONG_SECONDS = 1.0  # an answer to a wrong password takes so long
TEMPLATE = Path(__file__).parent / "login.html"


def check_password(password: str) -> str:
    """The password, if it can be one.

    Raises:
        PockError: it is too short.
    """
    if len(password) < MIN_LENGTH:
        raise PockError(f"The password has {len(password)} characters. Take at least {MIN_LENGTH}.")
    return password


class PasswordProvider(BasicAuthProvider):
    """Panel's login page and cookie, for one password and any user.

    Args:
        password: nothing is served to who has not given it.
    """

    def __init__(self, password: str) -> None:
        self._handler = type("PasswordHandler", (_PasswordHandler,), {"_password": password})
        page = str(TEMPLATE)  # Panel's own would have the browser ask a CDN
        super().__init__(login_template=page, logout_template=page)

    @property
    def login_handler(self) -> type[_PasswordHandler]:
        self._handler._login_endpoint = self._login_endpoint
        self._handler._login_template = self._login_template
        return self._handler


class _PasswordHandler(BasicLoginHandler):
    _password: str

    def _validate(self, username: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), self._password.encode())

    async def post(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The form's own address says where to go on: a cookie would be the last tab's for all of them."""
        asked = _validate_next_url(self.get_query_argument("next", ""))
        if not self._validate("", self.get_body_argument("password", "", strip=False)):
            await asyncio.sleep(WRONG_SECONDS)
            again = {"error": "1"} | ({"next": asked} if asked else {})
            self.redirect(f"{self._login_endpoint}?{urlencode(again)}")
            return
        self.set_current_user("user")
        self.redirect(asked or state.base_url)
