"""How everything is written to disk and read back: atomic files, locks, damage, and errors of the storage."""
