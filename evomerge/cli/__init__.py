"""The commands, one module each: parse arguments, call ``runs``, print. Nothing heavy is imported here."""
