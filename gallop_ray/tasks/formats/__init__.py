"""How a row becomes an example: the formats that people have, found by their columns."""
