"""All use of private or undocumented parts of other packages: a module for each package, with a probe.

Probes run in the tests, in `doctor` and where the package is first used, and name the version they were tried with.
"""
