"""Validation of a StreamJob: its shape (`spec`) and how its parts fit together (`cross`)."""
