"""How a plugin looks in the Explorer: the model of `ui_config`, and the file that `ui_module` names.

Both are checked when the plugin class is defined. It draws nothing and keeps nothing but what it was given.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orbit_zmq.errors import InvalidArgument

FAULTS_IN_MESSAGE = 5


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Choice(_Part):
    """One entry of a select field whose value is not its label."""

    value: Any
    label: str


class Field(_Part):
    """One field of a form; `name` is the argument that it fills in."""

    name: str
    type: Literal["text", "select", "number", "textarea", "checkbox", "hidden", "custom_attributes"] = "text"
    label: str = ""
    css_class: str = ""
    default: Any = None
    placeholder: str = ""
    required: bool = False
    options: list[str | Choice] = []
    options_endpoint: str = ""
    options_value_field: str = ""
    options_label_field: str = ""
    column: int | str | None = None


class Submit(_Part):
    """The button of a form. `endpoint` is the route that it posts to."""

    label: str = "Submit"
    style: Literal["success", "primary", "secondary", "danger"] = "primary"
    endpoint: str = "submit/{sid}"


class Form(_Part):
    """One form of the page."""

    id: str
    title: str = ""
    layout: Literal["single", "grid2", "grid3"] = "single"
    fields: list[Field] = []
    submit: Submit | None = None


class Monitor(_Part):
    """One part of the page that shows what goes on."""

    id: str
    title: str = ""
    type: Literal["task_list", "metrics", "table", "raw"]
    css_class: str = ""
    empty_text: str = ""
    auto_load: str | bool = ""


class Notifications(_Part):
    """Which events the page follows, and where in them an entity's id and state stand."""

    topic: str
    id_field: str = ""
    state_field: str = ""


class UIConfig(_Part):
    """The page of a plugin. Every key may be left out."""

    icon: str = ""
    title: str = ""
    description: str = ""
    refresh_button: bool = False
    auto_load: str | bool = ""
    stub_message: str = ""
    custom_template: str | bool = ""
    forms: list[Form] = []
    monitors: list[Monitor] = []
    notifications: Notifications | None = None


def ui_of(given: object, label: str) -> dict[str, Any]:
    """The checked `ui_config` of a class, with the keys that it was written with; InvalidArgument names what is wrong."""
    if given is None:
        return {}
    if not isinstance(given, (dict, UIConfig)):
        raise InvalidArgument(f"{label}.ui_config is {type(given).__name__}, neither a dict nor a UIConfig")
    try:
        checked = given if isinstance(given, UIConfig) else UIConfig.model_validate(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        texts = [f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}" for fault in faults]
        raise InvalidArgument(f"{label}.ui_config is not valid: {'; '.join(texts[:FAULTS_IN_MESSAGE])}") from None
    return checked.model_dump(mode="json", exclude_unset=True)


def ui_file_of(owner: type, given: object, label: str) -> Path | None:
    """The file that a class's `ui_module` names, beside the class's own module; InvalidArgument where it is not there."""
    if given is None:
        return None
    if not isinstance(given, (str, Path)) or not str(given).endswith(".js"):
        raise InvalidArgument(f"{label}.ui_module is {given!r}, not the path of a .js file")
    folder, package = _folders_of(owner)
    file = (folder / given).resolve()
    if not file.is_relative_to(package):
        raise InvalidArgument(f"{label}.ui_module leads out of the package: {given}")
    if not file.is_file():
        raise InvalidArgument(f"{label}.ui_module: there is no file {file}", hint="The path is relative to the class's module.")
    return file


def _folders_of(owner: type) -> tuple[Path, Path]:
    """Where the module of a class lies, and its outermost package; what is typed in lies where the process works."""
    module = sys.modules.get(owner.__module__)
    source = inspect.getsourcefile(module) if module is not None and getattr(module, "__file__", None) else None
    folder = Path(source).resolve().parent if source else Path.cwd().resolve()
    package = folder
    while (package / "__init__.py").exists() and (package.parent / "__init__.py").exists():
        package = package.parent
    return folder, package
