"""Base weights of users: taken in from uploads and addresses, checked in a confined process, listed, deleted."""
