"""How the Explorer shows the plugin: a form that submits a command, and what becomes of the jobs. Data, nothing else."""

from __future__ import annotations

from typing import Any

UI_CONFIG: dict[str, Any] = {
    "icon": "🧾",
    "title": "Jobs",
    "description": "Submit, follow and remember jobs; their outcome is never a guess.",
    "refresh_button": True,
    "monitors": [
        {
            "id": "jobs",
            "title": "Jobs",
            "type": "table",
            "css_class": "jobs-content",
            "auto_load": "list/{sid}",
        }
    ],
}
