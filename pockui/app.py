"""The web app: `panel serve pockui/app.py --args study.db`, or `pockui serve study.db`.

A server runs this file anew for every session; what sessions share is in the modules it imports.
"""

from __future__ import annotations

import panel as pn

from pockui.page import create_app, serve

__all__ = ["create_app", "serve"]

if pn.state.served:
    create_app().servable()
