"""What users see of a sweep: progress, tables, figures and the report. Decides nothing."""
