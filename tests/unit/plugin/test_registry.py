"""The registry: which plugins are known, which are loaded, and why others are not."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from orbit_testplugin import TestPlugin, TestSession
from orbit_zmq.batch import BatchSystem
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound
from orbit_zmq.plugin import Host, Plugin, get_plugin_class, get_plugin_names, registry
from orbit_zmq.plugin.host import ROLES, detect_role
from orbit_zmq.plugin.registry import POLICIES, Wanted, make_plugins, policy_of, select, with_options


@pytest.fixture(autouse=True)
def only_these_plugins(monkeypatch):
    """A registry with the test plugin defined and four entry points, whatever is installed here."""
    points = [
        EntryPoint("installed", "tests.unit.plugin.test_registry:Installed", registry.GROUP),
        EntryPoint("broken", "orbit_no_such_module:Broken", registry.GROUP),
        EntryPoint("not-a-plugin", "builtins:int", registry.GROUP),
        EntryPoint("psij", "orbit_no_such_module:Psij", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_defined", {"test": TestPlugin})


def classes_of(selected: tuple[list[Wanted], Any]) -> list[type[Plugin]]:
    return [wanted.plugin_class for wanted in selected[0]]


def plugin_class(name: str, **members: Any) -> type[Plugin]:
    return type(name.title(), (Plugin,), {"plugin_name": name, "session_class": TestSession, **members})


class Installed(Plugin):
    plugin_name = "installed"
    session_class = TestSession


def test_defining_a_class_makes_it_known():
    made = plugin_class("fresh")

    assert get_plugin_class("fresh") is made
    assert "fresh" in get_plugin_names()


def test_a_base_class_without_a_plugin_name_is_no_plugin():
    class Base(Plugin):
        pass

    assert get_plugin_names() == ["broken", "installed", "not-a-plugin", "psij", "test"]
    assert not Base.plugin_name


def test_an_unknown_plugin_has_no_class():
    assert get_plugin_class("nobody") is None


def test_an_entry_point_is_imported_when_it_is_asked_for():
    loaded = get_plugin_class("installed")

    assert loaded is not None and loaded.plugin_name == "installed"


def test_plugins_that_do_not_import_stay_absent_with_the_reason():
    assert get_plugin_class("broken") is None
    wanted, absent = select("test,broken,not-a-plugin", "standalone")

    assert wanted == [Wanted(TestPlugin, "test")]
    assert absent == [
        {"plugin": "broken", "reason": "does not import: ModuleNotFoundError: No module named 'orbit_no_such_module'"},
        {"plugin": "not-a-plugin", "reason": "its entry point builtins:int is no Plugin of that name"},
    ]


def test_a_name_selects_one_plugin_once():
    assert classes_of(select(["test", "te*", TestPlugin], "login")) == [TestPlugin]


def test_a_class_needs_no_registration():
    made = plugin_class("private")
    registry._defined.clear()

    assert select([made], "compute") == ([Wanted(made, "private")], [])


def test_one_class_or_instance_needs_no_list():
    made = TestPlugin(Host(), "own")

    assert select(TestPlugin, "login") == ([Wanted(TestPlugin, "test")], [])
    assert select(made, "login") == ([Wanted(TestPlugin, "own", made)], [])


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (int, "int is no plugin"),
        (TestSession, "TestSession is no plugin"),
        (7, "7 is no plugin"),
        (Plugin, "Plugin has no plugin_name"),
    ],
)
def test_what_is_no_plugin_is_refused_by_its_name(token: Any, says: str):
    for tokens in (token, [token]):
        with pytest.raises(InvalidArgument, match=says):
            select(tokens, "login")


def test_globs_select_what_they_match():
    made = plugin_class("tester")

    assert classes_of(select("test*", "login")) == [TestPlugin, made]


def test_all_is_everything_that_the_role_may_load():
    wanted, absent = select("all", "bridge")

    assert {one.plugin_class.plugin_name for one in wanted} == {"installed", "test"}
    assert {one["plugin"] for one in absent} == {"broken", "not-a-plugin", "psij"}


def test_default_is_what_the_role_loads_by_itself():
    sysinfo, queue_info = plugin_class("sysinfo"), plugin_class("queue_info")

    assert classes_of(select("default", "compute")) == [queue_info, sysinfo]
    assert classes_of(select("default", "standalone")) == [sysinfo]
    assert classes_of(select(["default", "test"], "bridge")) == [sysinfo, TestPlugin]


def test_a_name_that_matches_nothing_is_an_error_that_lists_the_known_ones():
    with pytest.raises(NotFound) as caught:
        select("tst", "login")

    assert caught.value.message == "no plugin matches 'tst'; there are: broken, installed, not-a-plugin, psij, test"
    assert caught.value.hint == "Did you mean 'test'?"
    with pytest.raises(NotFound, match=r"no plugin matches 'x\*'"):
        select(["test", "x*"], "login")


def test_a_plugin_that_is_not_for_the_role_is_refused_also_when_named():
    assert select("psij", "bridge") == ([], [{"plugin": "psij", "reason": "not for an endpoint of role bridge"}])


def test_plugins_outside_the_table_are_loaded_on_request_everywhere():
    assert {policy_of("somebodys", role) for role in ROLES} == {"on request"}
    assert policy_of("math", "bridge") == "on request"


def test_the_table_of_roles_is_complete_for_what_is_loaded_by_default():
    assert policy_of("rhapsody", "login") == "on request" and policy_of("rhapsody", "compute") == "default"
    assert all(set(row) <= set(ROLES) for row in POLICIES.values())


def test_a_plugin_that_does_not_apply_or_cannot_be_made_stays_absent():
    def fails(self: Any, host: Host) -> None:
        raise OSError("no scheduler socket")

    off = plugin_class("off", is_enabled=classmethod(lambda cls, host: not host.is_standalone))
    broken = plugin_class("bad", __init__=fails)

    plugins, absent = make_plugins(select([TestPlugin, off, broken], "standalone")[0], Host(role="standalone"))

    assert [plugin.instance_name for plugin in plugins] == ["test"]
    assert absent == [
        {"plugin": "off", "reason": "not applicable on this host"},
        {"plugin": "bad", "reason": "cannot be made: OSError: no scheduler socket"},
    ]
    assert len(make_plugins(select([off], "login")[0], Host(role="login"))[0]) == 1


def test_the_host_says_which_role_it_has():
    flags = {
        role: (host.is_bridge, host.is_login_node, host.is_compute_node, host.is_standalone)
        for role in ROLES
        for host in [Host(role=role)]
    }

    assert flags == {
        "bridge": (True, False, False, False),
        "login": (False, True, False, False),
        "compute": (False, False, True, False),
        "standalone": (False, False, False, True),
    }
    with pytest.raises(InvalidArgument, match="'head' is no role"):
        Host(role="head")


def test_the_role_follows_from_the_batch_system():
    assert detect_role(BatchSystem()) == "standalone"
    assert detect_role(BatchSystem("slurm", "slurm")) == "login"
    assert detect_role(BatchSystem("pbs", "pbs", job_id="7.host")) == "compute"


def test_a_name_with_a_colon_makes_another_instance_of_a_plugin():
    wanted, _ = select("test,test:left, test:right", "login")
    plugins, _ = make_plugins(wanted, Host(name="hpc1"))

    assert [plugin.instance_name for plugin in plugins] == ["test", "left", "right"]
    assert {type(plugin) for plugin in plugins} == {TestPlugin}


def test_instances_that_are_made_already_get_the_host_of_the_endpoint():
    left, host = TestPlugin(Host(), "left"), Host(name="hpc1", role="login")
    plugins, _ = make_plugins(select([TestPlugin, left], "login")[0], host)

    assert [plugin.instance_name for plugin in plugins] == ["test", "left"]
    assert plugins[1] is left and left.host is host


def test_two_instances_of_one_name_are_refused_whatever_they_are_of():
    other = plugin_class("other")
    doubled: list[Any] = [
        [TestPlugin(Host(), "one"), TestPlugin(Host(), "one")],
        [TestPlugin(Host()), TestPlugin],
        [TestPlugin, TestPlugin(Host())],
        [TestPlugin(Host(), "other"), other],
        "test:x,other:x",
    ]
    for tokens in doubled:
        with pytest.raises(Conflict, match="there is another instance"):
            select(tokens, "login")


def test_an_instance_name_that_a_plugin_gives_itself_must_be_free_too():
    def names_itself(self: Any, host: Host) -> None:
        Plugin.__init__(self, host, "test")

    headstrong = plugin_class("headstrong", __init__=names_itself)

    with pytest.raises(Conflict, match="plugin headstrong: there is another instance 'test'"):
        make_plugins(select([TestPlugin, headstrong], "login")[0], Host())


class Optioned(Plugin):
    plugin_name = "optioned"
    session_class = TestSession

    def __init__(self, host: Host, instance_name: str | None = None, conf: str = "") -> None:
        super().__init__(host, instance_name)
        self.conf = conf


def test_options_reach_the_constructor_and_make_further_instances():
    wanted = with_options([Wanted(Optioned, "optioned")], {"optioned": {"optioned": {"conf": "a"}, "other": {"conf": "b"}}})
    plugins, absent = make_plugins(wanted, Host())

    assert ([(one.instance_name, vars(one)["conf"]) for one in plugins], absent) == ([("optioned", "a"), ("other", "b")], [])


def test_options_of_a_plugin_that_is_not_asked_for_make_no_instance():
    assert with_options([Wanted(Installed, "installed")], {"optioned": {"other": {"conf": "b"}}}) == [
        Wanted(Installed, "installed")
    ]


def test_an_option_that_a_plugin_does_not_take_is_refused_with_the_nearest():
    with pytest.raises(InvalidArgument, match=r"plugin other: there is no option 'con'.*Did you mean 'conf'"):
        with_options([Wanted(Optioned, "optioned")], {"optioned": {"other": {"con": "b"}}})
