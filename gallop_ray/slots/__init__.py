"""Slots and what runs in them: the pool's actors, Ray Train's workers, and how a run can fail there."""
