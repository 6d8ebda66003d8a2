"""The Model Registry Service: stores, versions and serves machine-learning models."""

__version__ = "0.1.0"
