"""From recipe and checkpoints to weights, in memory and on disk.

Import from its modules: torch is heavy.
"""
