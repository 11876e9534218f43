"""Several workers: processes that each run the whole dataflow on a share of it, and a supervisor that decides."""
