"""The web app: `panel serve pockui/app.py --address 127.0.0.1 --args study.db`, or `pockui serve study.db`.

A server runs this file anew for every session; what sessions share is in the modules it imports.
`pockui serve` refuses requests for other names and from other sites' pages before they are looked at, and
has a limit of sessions; `panel serve` cannot, so that here each session checks what it can see.
"""

from __future__ import annotations

import panel as pn

from pockui.access_control import is_loopback, problem_of_panel_serve
from pockui.closed_tabs import say_nothing_of_closed_tabs
from pockui.page import create_app
from pockui.serving import serve
from pockui.views.start import refused

__all__ = ["create_app", "serve"]

if pn.state.served:
    say_nothing_of_closed_tabs()
    authorised = bool(pn.config.basic_auth or pn.config.oauth_provider)
    host = str(pn.state.headers.get("Host", ""))
    problem = problem_of_panel_serve(host, authorised)
    own_machine = is_loopback(host.rpartition(":")[0] or host) and not authorised
    (refused(problem) if problem else create_app(own_machine=own_machine)).servable()
