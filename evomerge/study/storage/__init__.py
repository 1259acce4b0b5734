"""Where studies are stored: SQLite, PostgreSQL or a journal file, through the public API of Optuna."""

from evomerge.study.storage.opening import open_storage, redact, refuse_foreign, storage_file
from evomerge.study.storage.storage import Storage

__all__ = ["Storage", "open_storage", "redact", "refuse_foreign", "storage_file"]
