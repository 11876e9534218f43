"""How a job runs: private. Only ``run`` and the command line begin here."""
