"""Language models from gin files: T5 today, more families on the same block."""

__version__ = "0.1.0"
