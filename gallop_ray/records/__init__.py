"""What a sweep leaves on disk, read and written: its folder and those of its runs. Needs no heavy package."""
