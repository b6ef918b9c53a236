"""The configuration files, importable so that an installed runner finds them."""
