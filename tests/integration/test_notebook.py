"""What a notebook shows of our objects, in a kernel of its own: tables for the page, one line of text for a terminal."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from orbit_zmq.children import environment_of_child

CELLS = {
    "setup": """
        import orbit_zmq
        from orbit_zmq import Plugin, PluginSession, operation

        class ShownSession(PluginSession):
            @operation(effect="read")
            async def shout(self, text: str = "<i>") -> str:
                '''<script>alert(1)</script>'''
                self.notify("<u>topic</u>", {"text": "<img src=x>" * 1000})
                return text

        class Shown(Plugin):
            plugin_name = "shown"
            session_class = ShownSession
            version = "<b>1</b>"

        orbit = orbit_zmq.local(plugins=Shown)
        client = orbit.client()
    """,
    "client before": "client",
    "client": "client.connect(); client",
    "endpoint": "client.endpoint('local')",
    "session": "session = client.get_plugin('local', 'shown'); session",
    "subscription": """
        import queue
        heard = queue.Queue()
        subscription = client.subscribe(lambda *event: heard.put(event), session=session.sid, topic="<u>topic</u>")
        subscription
    """,
    "heard": "session.shout(); assert heard.get(timeout=60)[2] == '<u>topic</u>'",
    "event": """
        import asyncio
        async def one_event():
            async with orbit.async_client() as other:
                async for event in other.events(plugin="shown"):
                    return event
        listening = asyncio.create_task(one_event())
        while not listening.done():
            await asyncio.to_thread(session.shout)
            await asyncio.wait([listening], timeout=0.5)
        listening.result()
    """,
    "completion": "[name for name in dir(session) if name == 'shout'], session.shout.__doc__[:8]",
    "after the end": "orbit.close(); client",
    "unsubscribed": "subscription.unsubscribe(); subscription",
    "closed": "client.close()",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each cell shows: by cell, by kind of text."""
    place = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(_dedented(source)) for source in CELLS.values()]
    with tempfile.TemporaryDirectory(prefix="orbit-test-") as sockets:  # TCP ports could be taken before the kernel has them
        client = NotebookClient(
            notebook,
            timeout=200,
            startup_timeout=200,
            kernel_name="python3",
            resources={"metadata": {"path": str(place)}},
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        client.execute(env=environment_of_child(**_places(place)))
    results = [[output for output in cell.outputs if output.output_type == "execute_result"] for cell in notebook.cells]
    return {name: dict(found[0].data) if found else {} for name, found in zip(CELLS, results, strict=True)}


def _dedented(source: str) -> str:
    lines = source.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)


def _places(place: Path) -> dict[str, str]:
    """Where the kernel keeps its files, so that it meets no other."""
    return {"IPYTHONDIR": str(place / "ipython"), "JUPYTER_RUNTIME_DIR": str(place / "jupyter")}


TABLES = ("client before", "client", "endpoint", "session", "subscription", "event", "after the end", "unsubscribed")


@pytest.mark.parametrize("cell", TABLES)
def test_a_notebook_shows_a_table_without_any_markup_of_a_peer(shown: dict[str, Any], cell: str) -> None:
    page = shown[cell]["text/html"]

    assert page.startswith("<table>") and page.endswith("</table>")
    assert set(re.findall(r"</?(\w+)", page)) <= {"table", "caption", "tr", "th", "td"}
    assert len(page) < 20_000


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("client before", r"<client of the broker at ipc://\S+: not connected>"),
        ("client", r"<client of the broker at ipc://\S+: connected>"),
        ("endpoint", r"<endpoint local: present, plugins shown>"),
        ("session", r"<plugin shown on local, session session\.\w{8}>"),
        ("subscription", r"<subscription to session session\.\w{8}, topic <u>topic</u>: in force, 0 events missed>"),
        ("event", r"Event\(endpoint='local', plugin='shown', session='session\.\w{8}', topic='<u>topic</u>', data=.*"),
        ("unsubscribed", r"<subscription to session .*: ended, 0 events missed>"),
    ],
)
def test_a_terminal_shows_the_same_as_text(shown: dict[str, Any], cell: str, text: str) -> None:
    assert re.fullmatch(text, shown[cell]["text/plain"], re.DOTALL), shown[cell]["text/plain"]


def test_the_tables_say_what_the_objects_are(shown: dict[str, Any]) -> None:
    assert "&lt;b&gt;1&lt;/b&gt;" in shown["endpoint"]["text/html"]
    assert "shout(text: str = &#x27;&lt;i&gt;&#x27;" in shown["session"]["text/html"]
    assert "&lt;script&gt;" in shown["session"]["text/html"]
    assert "&lt;img src=x&gt;" in shown["event"]["text/html"]
    assert shown["completion"]["text/plain"] == "(['shout'], '<script>')"
