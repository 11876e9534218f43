"""The steps of a dataflow as tasks run them."""
