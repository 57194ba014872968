"""How the Explorer shows the plugin: one table that it fills by itself. Data, nothing else."""

from __future__ import annotations

from typing import Any

UI_CONFIG: dict[str, Any] = {
    "icon": "📋",
    "title": "Queue Info",
    "description": "Inspect batch partitions, jobs and allocations.",
    "refresh_button": True,
    "monitors": [
        {
            "id": "partitions",
            "title": "Partitions / Queues",
            "type": "table",
            "css_class": "queueinfo-content",
            "auto_load": "get_info/{sid}",
        }
    ],
}
