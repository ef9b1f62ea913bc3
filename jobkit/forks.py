"""Import this before gRPC: switches off what gRPC does in a process that forks.

Handlers start processes, and so does the parent of several workers. gRPC's fork handlers, which nobody here
needs, broke 4 in 100 of those that Python has to fork (`user=`, `preexec_fn=`, multiprocessing): the child died
before it was executed. gRPC reads the variable once, when it is imported.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
