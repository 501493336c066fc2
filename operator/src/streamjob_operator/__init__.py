"""The Kubernetes operator of StreamJob.

`observe -> decide -> apply -> status`: what should be is computed from everything that is observed, by functions that
do no I/O; one module talks to Kubernetes.
"""

__version__ = "0.1.0"
