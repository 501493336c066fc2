"""What the benchmark's cases have in common: starting processes, measuring, checking, reporting."""
