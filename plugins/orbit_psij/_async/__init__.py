"""The client for asyncio, written by hand; the sync twin in `_sync` is generated from this package by scripts/unasync."""
