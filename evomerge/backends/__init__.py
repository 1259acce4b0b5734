"""Models in memory that one recipe after the other is merged into, and that lm-eval can ask.

One module for each library that runs models, behind the protocol ``ResidentModel``. Importing this package
loads none of them.
"""
