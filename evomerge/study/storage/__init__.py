"""Where studies are stored: SQLite, PostgreSQL or a journal file, through the public API of Optuna."""
