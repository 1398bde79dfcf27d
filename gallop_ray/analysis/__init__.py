"""What records mean: which configuration is best, and what the seeds prove. Decides, and displays nothing."""
