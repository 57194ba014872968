"""The settings that config.toml may hold: what each may be, where a value comes from, and how one is written.

The order is environment, named context, config file, default; an option of a command comes before all of them and is the
command's matter. Only the commands `config` and `context`, and programs of a user who has a config.toml, load this module.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orbit_zmq.contexts import CONTEXT_NAME, read_context
from orbit_zmq.errors import InvalidArgument
from orbit_zmq.files import write_private
from orbit_zmq.paths import CONFIG_FILE, config_dir, existing_config_file
from orbit_zmq.settings import environment

Address = Annotated[str, Field(pattern=r"^(tcp://[^\s/]+:\d{1,5}|ipc://.+)$")]

ENVIRONMENT, DEFAULT = "environment", "default"
PLUGINS = "plugins"  # the one table of the file, which is for plugins to check and no setting
PluginOptions = dict[str, dict[str, dict[str, Any]]]  # plugin -> instance -> option -> value


class Values(BaseModel):
    """Every setting. `ORBIT_<NAME>` is the variable of the same meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Address | None = Field(default=None, description="address of the broker")
    join_file: str | None = Field(default=None, description="file with a join string")
    context: Annotated[str, Field(pattern=f"^{CONTEXT_NAME.pattern}$")] | None = Field(
        default=None, description="the context in use"
    )
    output: Literal["table", "tsv", "json", "jsonl", "quiet"] | None = Field(
        default=None, description="how commands show things"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = Field(
        default=None, description="what is logged"
    )
    rhapsody_backend: str | None = Field(default=None, description="default execution backend of Rhapsody sessions")
    batch_system: Literal["slurm", "pbs", "pbs-aurora", "lsf", "flux", "none"] | None = Field(
        default=None, description="the batch system to use where this machine has several"
    )


class Settings(Values, BaseSettings):
    """How a source is read."""

    model_config = SettingsConfigDict(env_prefix="ORBIT_", env_ignore_empty=True, extra="forbid", frozen=True)


def sources(with_file: bool = True) -> list[tuple[str, PydanticBaseSettingsSource]]:
    """Where settings come from, by name, the first first."""
    path = existing_config_file() if with_file else None
    in_file = _content_of(path) if path is not None else {}
    found: list[tuple[str, PydanticBaseSettingsSource]] = [(ENVIRONMENT, EnvSettingsSource(Settings))]
    if name := environment("ORBIT_CONTEXT") or in_file.get("context"):
        stored = InitSettingsSource(Settings, init_kwargs={"url": read_context(name).url})
        found.append((f"context {name}", stored))
    if path is not None:
        found.append((str(path), InitSettingsSource(Settings, init_kwargs=in_file)))
    return found


def settings_and_origins(with_file: bool = True) -> tuple[Values, dict[str, str]]:
    """The settings in force, and where each comes from. InvalidArgument names what is wrong, and where."""
    origins = dict.fromkeys(Values.model_fields, DEFAULT)
    values: dict[str, Any] = {}
    for name, source in reversed(sources(with_file)):
        found = source()
        values |= found
        origins |= dict.fromkeys(found, name)
    try:
        return Values.model_validate(values), origins
    except ValidationError as error:
        raise _refusal(error, origins) from None


def configured(path: Path) -> dict[str, str]:
    """What the config file says, checked; InvalidArgument names what is wrong there."""
    content = _content_of(path)
    _check(content, str(path))
    return content


def write_setting(name: str, value: str | None) -> Path:
    """Put one value into config.toml, or take it out with None; the file that was written. InvalidArgument where it is none."""
    path = existing_config_file()
    if value is None and path is not None and (rest := _damaged_without(path, name)) is not None:
        write_private(path, rest)
        return path
    content = _content_of(path) if path is not None else {}
    tables = _tables_text(path) if path is not None else ""
    if value is not None or name not in content:
        _check({name: value}, "what is to be set")
    content = {key: old for key, old in content.items() if key != name} | ({} if value is None else {name: value})
    path = config_dir() / CONFIG_FILE
    write_private(path, "".join(f"{key} = {json.dumps(one)}\n" for key, one in content.items()) + tables)
    return path


def plugin_options() -> PluginOptions:
    """What the tables `[plugins.NAME.INSTANCE]` of config.toml say. InvalidArgument names what is wrong there."""
    path = existing_config_file()
    found = _read(path).get(PLUGINS, {}) if path is not None else {}
    for plugin, instances in found.items() if isinstance(found, dict) else [("", None)]:
        for instance, options in instances.items() if isinstance(instances, dict) else [("", None)]:
            if not isinstance(options, dict):
                where = ".".join(filter(None, (PLUGINS, plugin, instance)))
                raise InvalidArgument(f"{where} in {path} is no table of options.", hint="Write [plugins.NAME.INSTANCE].")
    checked: PluginOptions = found
    return checked


def _damaged_without(path: Path, name: str) -> str | None:
    """The text of a file that is no TOML, without the line of that setting; None where it is TOML, or has no such line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    try:
        tomllib.loads(text)
    except ValueError:
        lines = text.splitlines(keepends=True)
        rest = [line for line in lines if line.partition("=")[0].strip() != name]
        return "".join(rest) if rest != lines else None
    return None


def _tables_text(path: Path) -> str:
    """The tables at the end of the file as they were written; TOML has nothing else after the first one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    return "".join(("\n", *lines[first:])) if first < len(lines) else ""


def _content_of(path: Path) -> dict[str, Any]:
    """The settings in the file."""
    return {key: value for key, value in _read(path).items() if key != PLUGINS}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}.", hint='Correct it; each line is: name = "value".') from error


def _check(values: dict[str, Any], origin: str) -> None:
    try:
        Values.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, dict.fromkeys(values, origin)) from None


def _refusal(error: ValidationError, origins: dict[str, str]) -> InvalidArgument:
    fault = error.errors(include_url=False, include_context=False)[0]
    name = str(fault["loc"][0])
    if name not in Values.model_fields:
        return InvalidArgument(
            f"There is no setting {name!r} ({origins.get(name, '')}).", hint=f"There are: {', '.join(Values.model_fields)}."
        )
    return InvalidArgument(
        f"The setting {name} is {fault['input']!r} in {origins[name]}: {fault['msg']}.",
        hint=f"Its meaning: {Values.model_fields[name].description}.",
    )
