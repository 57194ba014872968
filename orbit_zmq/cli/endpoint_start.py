"""`orbit endpoint start`: serve this machine, in the foreground or in the background.

`python -m orbit_zmq.endpoint` is this command as a child process of something else.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.connection import Where, broker_options, patiently
from orbit_zmq.cli.parameters import DURATION
from orbit_zmq.cli.running import log_options
from orbit_zmq.tunnel.deadlines import THROUGH_S, WAY_S

if TYPE_CHECKING:
    from orbit_zmq import Endpoint, Plugin
    from orbit_zmq.configuration import PluginOptions

SHARE_HELP = "Serve another user, too, to read and write, or with the rights named; * for everybody; several are fine."
OPTION_HELP = "Serve that instance of a plugin with an option; several are fine. They count before those in config.toml."
TUNNEL_HELP = "Reach the broker by ssh: from here to the login node, by the login node's ssh to here, or what is found to work."
PICKLE_HELP = "Whether callers who may run code may send functions and values as pickles."
USAGE_HINT = "--help shows how it is used."
LEAST_S = 1.0  # for the broker to answer once the plugins are imported, which may take long
LAUNCHERS = ("dragon",)
LAUNCHED_S = 120.0  # for a launcher to start its runtime, before the endpoint
DETACHED_S = 10.0  # beside the time for the broker: a cold import over a slow shared file system takes most of it


@click.command()
@click.option("-n", "--name", metavar="NAME", help="That of its invitation, or the host name, where it is left out.")
@click.option("-p", "--plugins", default="default", show_default=True, help="Names, name:instance, or globs, with commas.")
@click.option("--plugin", "options", multiple=True, metavar="NAME[:INSTANCE]=OPTION=VALUE", help=OPTION_HELP)
@click.option("--plugin-module", "modules", multiple=True, metavar="MODULE", help="Serve the plugins of a Python module, too.")
@click.option("--role", type=click.Choice(["bridge", "login", "compute", "standalone"]), help="Found out where left out.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="For clients to choose by; several are fine.")
@click.option("--share", "shares", multiple=True, metavar="USER[:PLUGIN,...[:RIGHT,...]]", help=SHARE_HELP)
@click.option("--pickle", type=click.Choice(["yes", "no"]), default="yes", show_default=True, help=PICKLE_HELP)
@click.option(
    "--wait", "wait_s", type=DURATION, default="2s", show_default=True, help="How long to look for the broker at first."
)
@click.option("--tunnel", type=click.Choice(["none", "forward", "reverse", "auto"]), default="none", help=TUNNEL_HELP)
@click.option(
    "--tunnel-via", metavar="HOST", help="Where ssh logs in to; the host that the job was submitted from if left out."
)
@click.option("--wall-time", "wall_time_s", type=DURATION, metavar="DURATION", help="End in order before so long have passed.")
@click.option("--launcher", type=click.Choice(LAUNCHERS), help="Start it under this, as Rhapsody's backend dragon wants it.")
@click.option("--detach", is_flag=True, help="Leave it running in the background; its log is in the state directory.")
@click.option("--exit-with-parent", is_flag=True, hidden=True, help="End when standard input is closed.")
@log_options
@broker_options
def start(detach: bool, launcher: str | None, name: str | None, **options: Any) -> None:
    """Serve this machine to the broker until Ctrl-C or SIGTERM. A broker that goes away later is waited for."""
    if detach:
        _detach(name, launcher, options)
    elif launcher:
        _launch(name, options)
    else:
        _serve(name, options)


def _launch(name: str | None, options: dict[str, Any]) -> None:
    """Serve in a process that the launcher starts."""
    from orbit_zmq.background import check_no_secret
    from orbit_zmq.children import command_of
    from orbit_zmq.cli.launching import launched, run_until_ended

    check_no_secret(options["where"].join)
    command = launched([*command_of("orbit_zmq.cli"), "endpoint", "start", *_arguments(name, options)])
    click.get_current_context().exit(run_until_ended(command))


def _detach(name: str | None, launcher: str | None, options: dict[str, Any]) -> None:
    from orbit_zmq.background import check_no_secret, log_path, refuse_second, start_in_background
    from orbit_zmq.cli.launching import launched
    from orbit_zmq.endpoint.endpoint import check_name, default_name
    from orbit_zmq.place import find_broker
    from orbit_zmq.process_record import ENDPOINT, believed_record

    where: Where = options["where"]
    check_no_secret(where.join)
    if name is None:
        ends_at = time.monotonic() + options["wait_s"]
        name = patiently(lambda: find_broker(*where), where, ends_at).name or default_name()
    check_name(name)
    refuse_second(believed_record(ENDPOINT, name))
    log = options["log_file"] or log_path(f"endpoint.{name}")
    arguments = _arguments(name, options | {"log_file": log})
    ready_s = options["wait_s"] + DETACHED_S
    if launcher:
        launched(())  # says what is missing
        arguments, ready_s = [*arguments, "--launcher", launcher], ready_s + LAUNCHED_S
    if options["tunnel"] != "none":
        ready_s += WAY_S + THROUGH_S
    said = start_in_background(["endpoint", "start", *arguments], log, ready_s)
    served = ", ".join(said["plugins"]) or "no plugin"
    absent = _absent_text(said["absent"])
    click.echo(f"endpoint {said['name']}, process {said['pid']}, serves {served}{absent}; its log is {log}")


def _arguments(name: str | None, options: dict[str, Any]) -> list[str]:
    """The same once more, for the process that serves."""
    where: Where = options["where"]
    given = {"--name": name, "--plugins": options["plugins"], "--role": options["role"], "--pickle": options["pickle"]}
    given |= {"--tunnel": options["tunnel"], "--tunnel-via": options["tunnel_via"]}
    given |= {"--wall-time": f"{options['wall_time_s']}s" if options["wall_time_s"] else None}
    given |= {"--wait": f"{options['wait_s']}s", "--log-level": options["log_level"], "--log-format": options["log_format"]}
    given |= {"--log-file": str(options["log_file"] or "")}
    given |= {f"--{option}": value for option, value in where._asdict().items()}
    arguments = [part for option, value in given.items() if value for part in (option, value)]
    arguments += [part for module in options["modules"] for part in ("--plugin-module", module)]
    arguments += [part for option in options["options"] for part in ("--plugin", option)]
    arguments += [part for label in options["labels"] for part in ("--label", label)]
    return arguments + [part for share in options["shares"] for part in ("--share", share)]


def _serve(name: str | None, options: dict[str, Any]) -> None:
    from orbit_zmq.errors import InvalidArgument, OrbitError
    from orbit_zmq.exit_with_parent import say_failed, watch_parent
    from orbit_zmq.log import configure_logging
    from orbit_zmq.place import find_broker
    from orbit_zmq.tunnel.way import way_to

    imported = _preload(options["plugins"], options["role"]) if options["tunnel"] != "none" else None
    where: Where = options["where"]
    has_parent, ends_at = options["exit_with_parent"], time.monotonic() + options["wait_s"]
    try:
        configure_logging(options["log_level"], options["log_format"], options["log_file"])
        given = _options(options["options"])
        found = patiently(lambda: find_broker(*where), where, ends_at)
        with ExitStack() as stack:
            called = name or found.name or _default_name()
            place = stack.enter_context(way_to(found, options["tunnel"], called, options["tunnel_via"]))
            if imported is not None:
                imported.wait()
            from orbit_zmq.configuration import plugin_options
            from orbit_zmq.endpoint.endpoint import Endpoint

            if options["tunnel"] != "none":
                ends_at = time.monotonic() + max(options["wait_s"], THROUGH_S)
            made = Endpoint(
                name,
                place=place,
                plugins=_chosen(options["plugins"], options["modules"], given),
                role=options["role"],
                labels=dict(map(_label, options["labels"])),
                share=options["shares"],
                pickle=options["pickle"] == "yes",
                plugin_options=merged(plugin_options(), given),
                wall_time_s=options["wall_time_s"],
            )
            if has_parent:
                watch_parent(made.stop)
            tell = _teller(made, stack, str(options["log_file"] or ""), has_parent)
            made.run(on_ready=tell, within_s=None if has_parent else max(ends_at - time.monotonic(), LEAST_S))
    except (OrbitError, click.UsageError) as error:
        if not sys.stdout.isatty():  # who waits for the ready line reads it there
            say_failed(error if isinstance(error, OrbitError) else InvalidArgument(error.format_message(), hint=USAGE_HINT))
        raise


def _preload(plugins: str, role: str | None) -> threading.Event:
    """Import what the endpoint needs while its tunnel is opened, which ends when the answer is set, and then, in a job, what
    its first session needs."""
    imported = threading.Event()
    threading.Thread(target=_import, args=(plugins, role, imported), name="orbit-preload", daemon=True).start()
    return imported


def _import(plugins: str, role: str | None, imported: threading.Event) -> None:
    """What is wrong with the plugins is said by whoever makes them."""
    try:
        from orbit_zmq.endpoint import endpoint  # noqa: F401
        from orbit_zmq.errors import OrbitError
        from orbit_zmq.plugin.host import detect_role
        from orbit_zmq.plugin.registry import select

        role = role or detect_role()
        wanted = []
        with suppress(OrbitError):
            wanted = select(plugins, role)[0]
    finally:
        imported.set()
    for one in wanted if role == "compute" else ():
        one.plugin_class.preload()


def _default_name() -> str:
    from orbit_zmq.endpoint.endpoint import default_name

    return default_name()


def _teller(made: Endpoint, stack: ExitStack, log_file: str, has_parent: bool) -> Callable[[], None]:
    """What is done when the broker has taken the endpoint in: a record, and one line, JSON unless a person reads it."""

    def tell() -> None:
        from orbit_zmq.exit_with_parent import say_ready
        from orbit_zmq.process_record import ENDPOINT, ProcessRecord, believed_record

        other = believed_record(ENDPOINT, made.name)
        if other is None or not other.is_here() or not other.is_alive():  # else it serves another broker under that name
            parent_pid = os.getppid() if has_parent else 0
            record = ProcessRecord.of_this_process(ENDPOINT, made.name, log=log_file, parent_pid=parent_pid)
            record.write()
            stack.callback(record.remove)
        facts = made.hello()
        served = sorted(facts["plugins"])
        said = {"name": made.name, "pid": facts["environment"]["pid"], "plugins": served, "absent": made.absent}
        absent = _absent_text(made.absent)
        say_ready(said, f"endpoint {made.name} serves {', '.join(served) or 'no plugin'}{absent}; Ctrl-C ends it")

    return tell


def _absent_text(absent: list[dict[str, str]]) -> str:
    """What was asked for and is not served, for the ready line."""
    return "".join(f"; without {one['plugin']}: {one['reason']}" for one in absent if "hint" not in one)


def _plugins_of(module_name: str) -> list[type[Plugin]]:
    """The plugin classes that a module defines."""
    from orbit_zmq.plugin import Plugin

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a module that is not installed is expected
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise click.UsageError(f"The plugin module {module_name} does not import: {error}.") from error
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Plugin)]
    found = [kind for kind in classes if kind.plugin_name and f"{kind.__module__}.".startswith(f"{module_name}.")]
    if not found:
        raise click.UsageError(f"The plugin module {module_name} defines no plugin.")
    return found


def _chosen(plugins: str, modules: tuple[str, ...], given: PluginOptions) -> list[str | type[Plugin]]:
    """What is asked for: names, classes of modules that are not named with an instance, and instances with options."""
    instanced = {part.partition(":")[0].strip() for part in plugins.split(",") if ":" in part}
    found = [kind for module in modules for kind in _plugins_of(module)]
    named = [f"{kind}:{instance}" for kind, instances in given.items() for instance in instances]
    return [plugins, *(kind for kind in found if kind.plugin_name not in instanced), *named]


def _options(texts: tuple[str, ...]) -> PluginOptions:
    """Options by plugin and instance."""
    found: PluginOptions = {}
    for text in texts:
        where, equals, rest = text.partition("=")
        key, also, value = rest.partition("=")
        plugin, _, instance = where.partition(":")
        if not plugin or not equals or not key or not also:
            raise click.UsageError(f"{text!r} is no option of a plugin: write NAME[:INSTANCE]=OPTION=VALUE.")
        found.setdefault(plugin, {}).setdefault(instance or plugin, {})[key] = value
    return found


def merged(first: PluginOptions, then: PluginOptions) -> PluginOptions:
    """Both; of an option that both have, the second counts."""
    return {
        plugin: {
            instance: first.get(plugin, {}).get(instance, {}) | then.get(plugin, {}).get(instance, {})
            for instance in {**first.get(plugin, {}), **then.get(plugin, {})}
        }
        for plugin in {**first, **then}
    }


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"{text!r} is no label: write KEY=VALUE.")
    return key, value
