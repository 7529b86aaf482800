"""The first hour on a GPU: parts in the order of their worth, each within its share of the time."""
