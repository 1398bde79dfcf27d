"""What is used of other packages that they do not promise to keep: a module for each, with a probe.

A probe says which version it was tried with, and is run by the tests, by `doctor`, and where the package is first used.
"""
