"""The version: in a file of its own, so that every module can import it and none the package."""

__version__ = "0.1.0"
