"""Which candidate next: samplers, the study, the loop. Nothing heavy is imported here."""
