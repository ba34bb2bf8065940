"""The tests under several versions of Python, and of the packages that criu-veth depends on."""
