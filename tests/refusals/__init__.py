"""Counts what the kernel refuses at a restore of files that were accepted: run it as ``python -m refusals``."""
