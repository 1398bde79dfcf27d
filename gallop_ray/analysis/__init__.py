"""What records mean: which configuration is best, what seeds allow to be said. It decides, and shows nothing."""
