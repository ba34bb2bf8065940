"""Puts damaged and hostile data into every place that reads data, and looks at how that ends: ``python -m fuzz``."""
