"""The page of a session, without a browser."""

from __future__ import annotations

from bokeh.document import Document
from bokeh.models import ImportedStyleSheet
from panel.io.state import set_curdoc

from pockui import page


def test_styles_come_from_here_in_a_session_that_no_page_was_served_for(state) -> None:
    """As after a reconnect, when the session has ended: only the websocket asks for one."""
    document = Document()
    with set_curdoc(document):
        page.page_of(state).server_doc(document)
    found = {m.url for m in document.models if isinstance(m, ImportedStyleSheet)}
    assert found
    assert not [url for url in found if "://" in str(url)]
