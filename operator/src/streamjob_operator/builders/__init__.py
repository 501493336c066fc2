"""The children of a job as manifests: one function for each object, pure, complete."""

from streamjob_operator.builders.children import Inputs, children, secret

__all__ = ["Inputs", "children", "secret"]
