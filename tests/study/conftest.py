"""Storages to test against."""

from __future__ import annotations

from storage_support import close_studies, journal, postgres_server, storage

__all__ = ["close_studies", "journal", "postgres_server", "storage"]
