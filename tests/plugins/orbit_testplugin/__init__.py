"""A plugin for tests: echoes, streams, sleeps, fails, blocks its loop, and counts what it executed."""

from orbit_testplugin.service import OddError, TestPlugin, TestSession, executions

__all__ = ["OddError", "TestPlugin", "TestSession", "executions"]
