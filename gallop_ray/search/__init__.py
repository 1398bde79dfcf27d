"""What to try next and when to give up: Optuna's studies, samplers and pruning. The only package that uses Optuna."""
