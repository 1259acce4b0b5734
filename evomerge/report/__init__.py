"""Studies to tables and documents."""
