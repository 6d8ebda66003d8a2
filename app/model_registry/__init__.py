"""The Model Registry Service: stores, versions and hands out machine-learning models."""

__version__ = "0.1.0"
