"""JobSpec: what a job is, checked to the last field. For a client and an endpoint alike; it must not import PSI/J.

Names are those of PSI/J. What would be passed over in silence is refused here, with the nearest name that there is; what a
shell or a scheduler's directive would take for something else is refused as well.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.units import parse_duration, parse_size

State: TypeAlias = Literal["NEW", "QUEUED", "ACTIVE", "COMPLETED", "FAILED", "CANCELED"]
MODES = ("none", "forward", "reverse")  # of a tunnel
FINAL: frozenset[State] = frozenset(("COMPLETED", "FAILED", "CANCELED"))

SCHEDULERS = ("slurm", "pbs", "pbs_classic", "lsf", "cobalt", "flux", "rp", "local")  # first words of custom attributes
LAUNCHERS = ("single", "multiple", "mpirun", "srun", "aprun", "jsrun")
LONGEST_S = 10 * 365 * 86_400.0
DAYS = re.compile(r"(\d{1,4})-(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NOT_IN_DIRECTIVES = re.compile(r'["\\$`\x00-\x1f\x7f]')
CUSTOM_NAME = re.compile(r"[A-Za-z0-9_]+\.[A-Za-z0-9][A-Za-z0-9_-]*")
FAULTS_IN_MESSAGE = 5
NAME_CHARS = 64  # of an unknown name, in a message
ARGUMENT_BYTES = (128 << 10) - 512  # of one word or variable with its name; Linux takes 128 KiB with the NUL


def _seconds_of(given: object) -> object:
    """Seconds of a number, of `1h30m`, `HH:MM:SS` or `D-HH:MM:SS`."""
    if isinstance(given, bool):
        raise PydanticCustomError("duration", "a duration is seconds, 1h30m, HH:MM:SS or D-HH:MM:SS")
    if not isinstance(given, (str, int, float)):
        return given
    seconds = float(given) if not isinstance(given, str) else _seconds_of_text(given.strip())
    if not math.isfinite(seconds) or not 1 <= seconds <= LONGEST_S:
        raise PydanticCustomError("duration", "a duration is from 1 s to ten years")
    return math.ceil(seconds)


def _seconds_of_text(text: str) -> float:
    if days := DAYS.fullmatch(text):
        day, hour, minute, second = (int(part or 0) for part in days.groups())
        return day * 86_400.0 + hour * 3_600 + minute * 60 + second
    if text.count(":") == 1:
        raise PydanticCustomError("duration", "{text} may be hours or minutes; write HH:MM:SS", {"text": repr(text)})
    try:
        return parse_duration(text)
    except InvalidArgument:
        raise PydanticCustomError(
            "duration", "{text} is no duration; write 600, 1h30m, HH:MM:SS or D-HH:MM:SS", {"text": repr(text)}
        ) from None


def _bytes_of(given: object) -> object:
    """Bytes of a number or of `4GiB`."""
    if not isinstance(given, str):
        return given
    try:
        return parse_size(given)
    except InvalidArgument as error:
        raise PydanticCustomError("size", "{message} {hint}", {"message": error.message, "hint": error.hint}) from None


def _fit_for_programs(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "a NUL character cannot be passed to a program")
    if len(text.encode(errors="replace")) > ARGUMENT_BYTES:
        raise PydanticCustomError(
            "length", "{limit} bytes are the most that a program takes at once", {"limit": ARGUMENT_BYTES}
        )
    return text


def _fit_for_directives(text: str) -> str:
    """What stands in a line of the script that the scheduler reads cannot be quoted there."""
    if found := NOT_IN_DIRECTIVES.search(text):
        raise PydanticCustomError("character", "{found} cannot stand in a scheduler's directive", {"found": repr(found[0])})
    return text


Text = Annotated[str, AfterValidator(_fit_for_programs)]
PathText = Annotated[Text, Field(max_length=4096)]
Word = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_fit_for_directives)]
Count = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
Seconds = Annotated[int | None, BeforeValidator(_seconds_of)]
Bytes = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_bytes_of)]
Custom: TypeAlias = str | int | float | bool | list[str | int | float]


class _Part(BaseModel):
    """Refuses what it does not know, and says what was probably meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _knows_all_names(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            for name in given:
                if name not in cls.model_fields:
                    raise _unknown(str(name), list(cls.model_fields))
        return given


class Resources(_Part):
    """What a job needs; `process_count` is `node_count` times `processes_per_node`, and what is left out follows."""

    node_count: Count | None = None
    process_count: Count | None = None
    processes_per_node: Count | None = None
    cpu_cores_per_process: Count | None = None
    gpu_cores_per_process: Count | None = None
    exclusive_node_use: bool = False
    memory: Bytes = Field(default=None, description="of the whole job, in bytes or as 4GiB")

    @model_validator(mode="after")
    def _add_up(self) -> Resources:
        _check_counts(self.node_count, self.process_count, self.processes_per_node)
        return self


class Attributes(_Part):
    """How the scheduler is to treat a job. `project_name` is an old name of `account`."""

    duration: Seconds = Field(default=None, description="seconds, 1h30m, HH:MM:SS or D-HH:MM:SS; none: the scheduler's default")
    queue_name: Word | None = None
    account: Word | None = None
    project_name: Word | None = None
    reservation_id: Word | None = None
    node_count: Count | None = Field(default=None, description="the same as that of resources")
    custom_attributes: dict[str, Custom] = Field(
        default={}, description='options of a scheduler, such as {"slurm.constraint": "gpu"}; true: an option without a value'
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Attributes:
        if self.project_name and self.account and self.project_name != self.account:
            raise PydanticCustomError("account", "project_name and account differ; project_name is its old name")
        for name, value in self.custom_attributes.items():
            _check_custom(name, value)
        return self


class JobSpec(_Part):
    """A job. Paths are those of the machine where it runs, relative ones relative to `directory`."""

    name: Word | None = None
    executable: Annotated[PathText, Field(min_length=1)]
    arguments: list[Text] = []
    directory: Word | None = Field(default=None, description="where it runs; by default where the endpoint was started")
    environment: dict[str, Text | int] = {}
    inherit_environment: bool = True
    stdin_path: PathText | None = None
    stdout_path: PathText | None = Field(default=None, description="by default a file that the endpoint keeps for a week")
    stderr_path: PathText | None = None
    pre_launch: PathText | None = Field(default=None, description="a script that is sourced before the launcher runs")
    post_launch: PathText | None = None
    launcher: Annotated[str, Field(max_length=NAME_CHARS)] | None = Field(
        default=None, description="single (the default), multiple, mpirun, srun, aprun or jsrun"
    )
    attributes: Attributes = Field(default_factory=Attributes)
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="after")
    def _is_consistent(self) -> JobSpec:
        for name in self.environment:
            if not VARIABLE.fullmatch(name):
                raise PydanticCustomError("variable", "environment: {name} is no name of a variable", {"name": repr(name)})
        if self.launcher is not None and self.launcher not in LAUNCHERS:
            raise _unknown(self.launcher, LAUNCHERS, "launcher")
        wanted, also = self.attributes.node_count, self.resources.node_count
        if wanted is not None and also is not None and wanted != also:
            raise PydanticCustomError(
                "node_count",
                "attributes.node_count is {wanted} and resources.node_count is {also}; name one of them",
                {"wanted": wanted, "also": also},
            )
        _check_counts(wanted or also, self.resources.process_count, self.resources.processes_per_node)
        return self

    @classmethod
    def of(cls, given: Mapping[str, Any] | JobSpec) -> JobSpec:
        """The job of a map; InvalidArgument names what is wrong in it."""
        if isinstance(given, JobSpec):
            return given
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise refusal_of(error) from None

    def settled_resources(self) -> Resources:
        """The resources with the node count, wherever that was named."""
        nodes = self.attributes.node_count
        if nodes is None or self.resources.node_count is not None:
            return self.resources
        return self.resources.model_copy(update={"node_count": nodes})

    @property
    def account(self) -> str | None:
        return self.attributes.account or self.attributes.project_name

    @property
    def warnings(self) -> list[str]:
        """What was taken though it should have been written in another way."""
        if self.attributes.project_name is None:
            return []
        return ["attributes.project_name is an old name and was taken as the account; write attributes.account"]


def check_mode(tunnel: object) -> str:
    """InvalidArgument for what is no mode of a tunnel."""
    if isinstance(tunnel, bool):
        raise InvalidArgument(f"tunnel={tunnel} says nothing of the direction", hint="Say tunnel='reverse', or 'forward'.")
    if not isinstance(tunnel, str) or tunnel not in MODES:
        raise InvalidArgument(f"tunnel is {tunnel!r}", hint=f"It is one of {', '.join(MODES)}.")
    return tunnel


def refusal_of(error: ValidationError) -> InvalidArgument:
    """What is wrong with a job, as an error of ours."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [".".join(str(step) for step in fault["loc"]) or "job_spec" for fault in faults]
    texts = [f"{path}: {fault['msg']}" for path, fault in zip(paths, faults, strict=True)]
    more = len(texts) - FAULTS_IN_MESSAGE
    shown = "; ".join(texts[:FAULTS_IN_MESSAGE]) + (f"; and {more} more" if more > 0 else "")
    return InvalidArgument(shown, hint="docs/psij.md lists the fields of a job.", details={"fields": paths})


def _unknown(name: str, known: list[str] | tuple[str, ...], kind: str = "field") -> PydanticCustomError:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(known)}"
    return PydanticCustomError(
        "unknown", "there is no {kind} {name}; {hint}", {"kind": kind, "name": repr(name[:NAME_CHARS]), "hint": hint}
    )


def _check_counts(nodes: int | None, processes: int | None, each: int | None) -> None:
    by = each if nodes is None else nodes if each is None else nodes * each
    if processes is None or by is None:
        return
    if processes != by if nodes and each else processes % by:
        raise PydanticCustomError(
            "resources",
            "process_count {processes} is not node_count {nodes} times processes_per_node {each}",
            {"processes": processes, "nodes": nodes or "(any)", "each": each or "(any)"},
        )


def _check_custom(name: str, value: Custom) -> None:
    scheduler = name.partition(".")[0]
    if not CUSTOM_NAME.fullmatch(name):
        raise PydanticCustomError(
            "custom", "custom_attributes: {name} is not SCHEDULER.OPTION, such as slurm.constraint", {"name": repr(name)}
        )
    if scheduler not in SCHEDULERS:
        raise _unknown(scheduler, SCHEDULERS, f"scheduler (custom_attributes: {name!r})")
    for each in value if isinstance(value, list) else [value]:
        _fit_for_directives(str(each))
