"""What a sweep leaves on disk: reading and writing its folder and those of its runs. Needs no heavy package."""
