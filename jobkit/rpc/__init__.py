"""Both doors of a component: gRPC and REST, with one set of rules for errors, tracing and load."""
