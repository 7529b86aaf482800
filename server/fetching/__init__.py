"""Downloads from addresses that users name, which are checked, and datasets made of them in the background."""
