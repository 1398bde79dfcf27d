"""How anything gets onto the disk and back: whole files, locks, damage, and what a disk can refuse."""
