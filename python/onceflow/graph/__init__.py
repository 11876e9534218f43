"""A dataflow as data: its steps and edges, and what can be said of them before anything runs."""
