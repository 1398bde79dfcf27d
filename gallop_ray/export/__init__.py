"""Adapters out: what a finished run has trained, in the form that other tools load."""
