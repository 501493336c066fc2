"""`kubectl streamjob`: looks at StreamJobs and acts on them.

What is shown is made by pure functions of what was read (`observation`): `status`, `explain`, `logs`. `cluster` alone
talks to the API server, `forward` starts port-forwards, `cli` and `commands` bring them together.
"""
