"""A plugin that writes down all that it executes, and does to its endpoint what plugins should not do."""
