"""MLflow, brought up to date with a sweep's folder by one thread of the driver. The only home of MLflow."""
