# Made by scripts/unasync from plugins/orbit_psij/_async/__init__.py: change that file, not this one.
"""The client for asyncio, written by hand; the sync twin in `_sync` is generated from this package by scripts/unasync."""
