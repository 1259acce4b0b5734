"""An experiment file and what can be done with it: check, search, look at the study, export."""
