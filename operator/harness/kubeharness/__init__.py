"""What tests and benchmarks share: a real API server without nodes, an operator as a process, engines' answers."""
