"""What the suites share: scales, streams of keys, interleaved rounds, figures, and the machine they ran on."""
