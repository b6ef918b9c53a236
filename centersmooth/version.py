"""The version, alone in a module so that tools can read it without importing torch."""

__version__ = "0.2.0"
