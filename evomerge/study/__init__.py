"""The log of a search: studies, their manifest, how trials are written and read, and the lease."""
