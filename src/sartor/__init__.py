"""Sartor tailors a language model to your work, and proves that it fits."""

__version__ = "0.1.0"
