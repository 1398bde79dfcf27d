"""Ends of a run that every rank comes to together, so that the slot lives on."""


class Diverged(Exception):
    """The training loss, or what is trained, is no longer a finite number."""
