"""How the Explorer shows the plugin: a form for a job, the jobs, and the events to listen to. Data, nothing else."""

from __future__ import annotations

from typing import Any


def _field(name: str, style: str, label: str, column: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "text", "label": label, "css_class": f"p-{style}", "column": column, **more}


def _optional(name: str, style: str, label: str, **more: Any) -> dict[str, Any]:
    return _field(name, style, label, 1, required=False, **more)


UI_CONFIG: dict[str, Any] = {
    "icon": "🚀",
    "title": "PsiJ Jobs",
    "description": "Submit and monitor HPC batch jobs via PsiJ.",
    "forms": [
        {
            "id": "submit",
            "title": "📝 Submit Job",
            "layout": "grid2",
            "fields": [
                _field("exec", "exec", "Executable", 0, default="orbit-endpoint-wrapper.sh"),
                _field("args", "args", "Arguments (space-separated)", 0, placeholder="auto-filled with --url and --name"),
                _field("executor", "executor", "Executor", 0, type="select", options=["local", "slurm", "pbs", "lsf"]),
                _optional("queue", "queue", "Queue / Partition", placeholder="optional"),
                _optional("account", "account", "Account / Project", placeholder="optional"),
                _optional("duration", "duration", "Duration (seconds)", placeholder="e.g. 600"),
                _optional("node_count", "node-count", "Number of Nodes", type="number", placeholder="e.g. 1"),
                _optional("custom", "custom-attr", "🔧 Custom Attributes", type="custom_attributes"),
            ],
            "submit": {"label": "🚀 Submit Job", "style": "success"},
        }
    ],
    "monitors": [
        {
            "id": "jobs",
            "title": "📊 Job Monitor",
            "type": "task_list",
            "css_class": "psij-output",
            "empty_text": "No jobs submitted yet.",
        }
    ],
    "notifications": {"topic": "job_status", "id_field": "job_id", "state_field": "state"},
}
