"""The client: what a program imports to reach endpoints. `_async` is written by hand, `_sync` is generated from it."""
