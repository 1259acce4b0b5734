"""Recipe and checkpoints to weights, in memory and on disk.

Imported by name from its modules: torch is heavy.
"""
