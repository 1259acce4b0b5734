"""evomerge searches for the best merge of several fine-tuned language models."""

__version__ = "0.1.0"
