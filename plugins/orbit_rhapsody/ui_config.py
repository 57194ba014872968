"""How the Explorer shows the plugin: its form, its monitor, and the events to listen to. Data, nothing else."""

from __future__ import annotations

from typing import Any


def _field(name: str, label: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "label": label, "css_class": f"rh-{name}", **more}


UI_CONFIG: dict[str, Any] = {
    "icon": "🎼",
    "title": "Rhapsody Tasks",
    "description": "Submit compute tasks, wait for results, view stdout/stderr.",
    "forms": [
        {
            "id": "submit",
            "title": "📝 Submit Task",
            "layout": "single",
            "fields": [
                _field("exec", "Executable", "text", default="/bin/echo"),
                _field("args", "Arguments (space-separated)", "text", default="hello from rhapsody"),
                _field("backends", "Backend", "select", options=["dragon_v3", "concurrent"]),
                _field("timeout", "Timeout (s)", "number", default=""),
                _field("ranks", "MPI Ranks", "number", default=""),
                _field("type", "Task Type", "select", options=["", "mpi"]),
                _field("cwd", "Working Dir", "text", default=""),
            ],
            "submit": {"label": "▶ Submit Task", "style": "success"},
        }
    ],
    "monitors": [
        {
            "id": "tasks",
            "title": "📊 Task Monitor",
            "type": "task_list",
            "css_class": "rh-output",
            "empty_text": "No tasks submitted yet.",
        }
    ],
    "notifications": {"topic": "task_status", "id_field": "uid", "state_field": "state"},
}
