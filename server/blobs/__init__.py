"""Files kept away from the data folder: one interface, with a folder and with object storage behind it."""
