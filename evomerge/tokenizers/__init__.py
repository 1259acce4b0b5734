"""Vocabularies: which row of an embedding is which token, and tokenizers that hold several vocabularies.

Import from its modules: transformers is heavy.
"""
