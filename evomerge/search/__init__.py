"""The search: samplers, the stream of candidates, scoring, ranking. Nothing heavy is imported here."""
