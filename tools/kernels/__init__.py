"""Runs the tests that need a kernel under several kernels, each with several CRIUs, in virtual machines."""
