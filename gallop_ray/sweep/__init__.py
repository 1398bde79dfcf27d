"""The driver side: study, slots, seeds. The only home of Ray and Optuna."""
