"""The report that `gallop-ray report` writes: one HTML page, its figures and tables as files; from records alone."""
