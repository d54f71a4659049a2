"""The version, in its own file so that modules can import it without importing the package."""

__version__ = "0.1.0"
