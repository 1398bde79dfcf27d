"""The torch-only heart: candidates, gradient sums, exact global masks, delta layers."""
