"""Who may import what, and who may touch a socket."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "orbit_zmq"
SHELVES = {path.name for shelf in ("brokers", "plugins") for path in (ROOT / shelf).iterdir() if path.name.startswith("orbit_")}

# What `orbit --help` may load beside the standard library. Each entry costs time on a slow shared file system.
HELP_MAY_LOAD = {
    "click",
    "orbit_zmq",
    "orbit_zmq._version",
    "orbit_zmq.cli",
    "orbit_zmq.cli.main",
    "orbit_zmq.errors",
}
HELP_MUST_NOT_LOAD = {"asyncio", "importlib.metadata", "json", "logging", "multiprocessing", "socket", "ssl", "subprocess"}


def sources(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, late ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_shelves_and_sources() -> None:
    assert {"orbit_broker", "orbit_math", "orbit_queue_info", "orbit_rhapsody", "orbit_sysinfo"} <= SHELVES
    assert len(sources(LIBRARY)) > 30


@pytest.mark.parametrize("path", sources(LIBRARY), ids=names)
def test_the_library_imports_no_shelf(path: Path) -> None:
    roots = {module.partition(".")[0] for module in imports_of(path)}
    assert not roots & SHELVES


@pytest.mark.parametrize("path", sources(ROOT / "brokers"), ids=names)
def test_the_broker_imports_no_plugin(path: Path) -> None:
    roots = {module.partition(".")[0] for module in imports_of(path)}
    assert not roots & {plugin.name for plugin in (ROOT / "plugins").iterdir()}


@pytest.mark.parametrize("path", [*sources(LIBRARY / "rules"), *sources(LIBRARY / "wire")], ids=names)
def test_rules_and_wire_do_no_io(path: Path) -> None:
    forbidden = {"asyncio", "logging", "os", "select", "selectors", "socket", "structlog", "threading", "time", "zmq"}
    imported = set(imports_of(path))
    assert not {module.partition(".")[0] for module in imported} & forbidden
    assert not any(module.startswith(("orbit_zmq.log", "orbit_zmq.transport")) for module in imported)


@pytest.mark.parametrize("path", sources(LIBRARY), ids=names)
def test_only_the_transport_imports_zmq(path: Path) -> None:
    if LIBRARY / "transport" not in path.parents:
        assert "zmq" not in {module.partition(".")[0] for module in imports_of(path)}


@pytest.mark.parametrize("path", [*sources(LIBRARY), *sources(ROOT / "brokers"), *sources(ROOT / "plugins")], ids=names)
def test_only_the_socket_factory_makes_binds_and_connects_sockets(path: Path) -> None:
    if path == LIBRARY / "transport" / "sockets.py":
        return
    text = path.read_text()
    for call in (".bind(", ".connect(", ".socket(", "zmq.Context(", "Context.instance("):
        lines = [line for line in text.splitlines() if call in line and not _is_no_socket(line)]
        assert not lines, f"{names(path)} has {call}"


def _is_no_socket(line: str) -> bool:
    """Calls of the same name on things that are no sockets."""
    return any(word in line for word in ("sqlite3.connect(", "self.connect()", "serving.connect(", "client.connect()"))


def test_the_help_of_the_command_loads_a_fixed_small_set() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "from orbit_zmq.cli.main import main\n"
        "code = main(['--help'])\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    loaded = set(done.stderr.split())
    foreign = {module for module in loaded if module.partition(".")[0] not in sys.stdlib_module_names}

    assert {module for module in foreign if not module.startswith("click.")} == HELP_MAY_LOAD
    assert not loaded & HELP_MUST_NOT_LOAD
    assert "Commands:" in done.stdout


def test_importing_the_library_loads_none_of_its_dependencies() -> None:
    script = "import orbit_zmq, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    roots = {module.partition(".")[0] for module in done.stdout.split()}

    assert not roots & {"asyncio", "click", "cloudpickle", "msgpack", "psutil", "pydantic", "rich", "structlog", "zmq"}


@pytest.mark.parametrize("plugin", ["jobs", "math", "queue_info", "rhapsody", "sysinfo"])
def test_a_client_of_a_plugin_loads_none_of_the_endpoint_side(plugin: str) -> None:
    script = f"import orbit_{plugin}.client, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    modules = set(done.stdout.split())

    assert not modules & {"rhapsody", f"orbit_{plugin}.service", "orbit_sysinfo.provider", "psutil", "psij", "dask", "dragon"}
