"""The report of `gallop-ray report`: one HTML page, with figures and tables also as files; from records only."""
