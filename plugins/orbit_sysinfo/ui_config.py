"""How the Explorer shows the plugin: one monitor that it fills by itself. Data, nothing else."""

from __future__ import annotations

from typing import Any

UI_CONFIG: dict[str, Any] = {
    "icon": "🖥️",
    "title": "System Info",
    "description": "Live CPU, memory, disk, network and GPU metrics.",
    "refresh_button": True,
    "monitors": [
        {
            "id": "metrics",
            "title": "System Metrics",
            "type": "metrics",
            "css_class": "sysinfo-content",
            "auto_load": "metrics/{sid}",
        }
    ],
}
