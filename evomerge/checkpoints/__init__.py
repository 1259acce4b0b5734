"""Reading and writing model folders and hub models.

Import from its modules: some need torch, which is heavy.
"""
