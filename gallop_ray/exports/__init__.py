"""Exports what a finished run has trained in forms that other tools load."""
