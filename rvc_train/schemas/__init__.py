"""Schemas of the HTTP interface, for client and server. Imports neither FastAPI nor SQLModel.

Requests are strict and forbid unknown fields; answers ignore fields that a newer server may add.
"""
