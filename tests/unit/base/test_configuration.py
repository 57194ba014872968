"""Settings: which source counts, where a value is said to come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbit_zmq.configuration import plugin_options, settings_and_origins, write_setting
from orbit_zmq.contexts import context_names, read_context, remove_context, store_context
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted
from orbit_zmq.place import find_broker
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import make_keypair
from orbit_zmq.settings import VARIABLES, setting


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable in ("ORBIT_CONFIG_DIR", "ORBIT_STATE_DIR", "ORBIT_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "ORBIT_CONFIG_DIR" / "config.toml"


def test_each_source_counts_before_the_next_and_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def url() -> tuple[str | None, str]:
        settings, origins = settings_and_origins()
        return settings.url, origins["url"]

    assert url() == (None, "default")
    write_setting("url", "ipc:///of-the-file")
    assert url() == ("ipc:///of-the-file", str(config))
    store_context("work", "ipc:///of-the-context")
    write_setting("context", "work")
    assert url() == ("ipc:///of-the-context", "context work")
    monkeypatch.setenv("ORBIT_URL", "ipc:///of-the-environment")
    assert url() == ("ipc:///of-the-environment", "environment")


def test_the_broker_is_found_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    write_setting("url", "ipc:///of-the-file")
    assert find_broker().address == "ipc:///of-the-file"
    for name in ("used", "varied", "named"):
        store_context(name, f"ipc:///{name}")
    write_setting("context", "used")
    assert find_broker().address == "ipc:///used"
    monkeypatch.setenv("ORBIT_CONTEXT", "varied")
    assert find_broker().address == "ipc:///varied"
    monkeypatch.setenv("ORBIT_URL", "ipc:///of-the-environment")
    assert find_broker().address == "ipc:///of-the-environment"
    assert find_broker(context="named").address == "ipc:///named"
    assert find_broker(url="ipc:///of-the-line", context="named").address == "ipc:///of-the-line"


def test_an_address_of_a_context_is_used_with_its_keys() -> None:
    join = JoinString(("tcp://bridge:5670",), (), make_keypair().public, make_keypair(), "laptop", "client")
    store_context("work", join.encode())

    place = find_broker(url="tcp://127.0.0.1:7000", context="work")
    assert (place.address, place.server_key, place.keys) == ("tcp://127.0.0.1:7000", join.broker_key, join.keys)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("url", "bridge:5670", "url is 'bridge:5670'"),
        ("output", "xml", "'tsv'"),
        ("context", "../x", "context"),
        ("urk", "x", "There are: url"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_the_file_stays(config: Path, name: str, value: str, words: str) -> None:
    write_setting("output", "json")
    before = config.read_text()

    with pytest.raises(InvalidArgument, match=words):
        write_setting(name, value)
    assert config.read_text() == before


def test_a_bad_value_is_named_with_its_source(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_setting("output", "json")
    config.write_text('output = "xml"\n')
    with pytest.raises(InvalidArgument, match=f"'xml' in {config}"):
        settings_and_origins()
    with pytest.raises(InvalidArgument, match=f"'xml' in {config}"):
        setting("output")
    monkeypatch.setenv("ORBIT_LOG_LEVEL", "loud")
    config.write_text("")
    with pytest.raises(InvalidArgument, match="'loud' in environment"):
        settings_and_origins()
    config.write_text("output = ")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        setting("output")


def test_settings_are_written_and_taken_out(config: Path) -> None:
    write_setting("output", "json")
    write_setting("rhapsody_backend", 'a "quoted" \\ name')
    assert (setting("output"), setting("rhapsody_backend")) == ("json", 'a "quoted" \\ name')
    write_setting("output", None)
    assert setting("output") is None
    assert config.stat().st_mode & 0o077 == 0


def test_the_variable_counts_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_setting("output", "json")
    monkeypatch.setenv("ORBIT_OUTPUT", "tsv")
    assert setting("output") == "tsv"


def test_no_directory_is_made_to_look_for_settings(config: Path) -> None:
    assert setting("output") is None
    assert not config.parent.exists()


def test_contexts_are_stored_for_their_owner_only(config: Path) -> None:
    store_context("work", "ipc:///x\n")
    path = config.parent / "contexts" / "work"

    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0
    assert (context_names(), read_context("work").url) == (["work"], "ipc:///x")
    with pytest.raises(Conflict, match="work"):
        store_context("work", "ipc:///y")
    path.chmod(0o644)
    with pytest.raises(NotPermitted):
        read_context("work")
    remove_context("work")
    assert context_names() == []
    with pytest.raises(NotFound, match="work"):
        remove_context("work")
    for name in ("../x", ".x", ""):
        with pytest.raises(InvalidArgument):
            store_context(name, "ipc:///x")


def test_tables_of_plugins_are_no_settings_and_stay_when_one_is_written(config: Path) -> None:
    assert plugin_options() == {}
    write_setting("output", "json")
    table = '[plugins.queue_info.hpc-b]\nconf = "/etc/b.conf"  # of the other cluster\n'
    config.write_text(config.read_text() + table)
    write_setting("log_level", "info")
    write_setting("output", None)

    assert config.read_text().endswith(table)
    assert plugin_options() == {"queue_info": {"hpc-b": {"conf": "/etc/b.conf"}}}
    assert setting("log_level") == "info" and settings_and_origins()[0].log_level == "info"


@pytest.mark.parametrize("text", ["plugins = 3", "[plugins]\nqueue_info = 3", '[plugins.queue_info]\nconf = "x"'])
def test_a_table_of_plugins_that_is_none_is_named(config: Path, text: str) -> None:
    config.parent.mkdir(mode=0o700)
    config.write_text(text)
    with pytest.raises(InvalidArgument, match="plugins"):
        plugin_options()
