"""Loops that find what nobody answers for, and see to it. Each may run in several replicas at once."""
