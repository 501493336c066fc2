"""The CustomResourceDefinition of StreamJob, generated from the models."""

from streamjob_operator.crd.manifest import custom_resource_definition, manifests

__all__ = ["custom_resource_definition", "manifests"]
