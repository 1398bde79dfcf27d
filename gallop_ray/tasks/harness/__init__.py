"""Tasks of lm-evaluation-harness, measured on the loaded model. Its package is optional and imported when needed."""
