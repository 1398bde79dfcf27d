"""Where the rows of a task come from: files, saved datasets, the hub. A row is a mapping, and knows its place."""
