"""Where tensors are: model folders and hub models, read and written.

Imported by name from its modules: some need torch, which is heavy.
"""
