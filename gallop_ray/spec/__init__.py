"""What a user asks for: the sweep file, its checks and its plan. Imports neither torch, ray nor optuna."""
