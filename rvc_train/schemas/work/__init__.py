"""Schemas of the requests of workers on other machines, under `/v1/worker`, and what both sides name the same."""
