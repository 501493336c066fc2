"""The parts of the operator's benchmark."""
