"""What criu-veth costs, measured: `PYTHONPATH=tests python -m bench --help`."""
