"""Mirrors a sweep's folder to MLflow, in one thread of the driver. The only package that uses MLflow."""
