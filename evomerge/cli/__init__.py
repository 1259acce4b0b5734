"""The commands. A module each: parse, call, print; nothing is decided here and nothing heavy is imported."""
