"""Studies as tables and documents."""
