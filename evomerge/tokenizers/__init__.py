"""Vocabularies: which row of an embedding is which token, and tokenizers that hold several vocabularies.

Imported by name from its modules: transformers is heavy.
"""
