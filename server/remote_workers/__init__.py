"""Workers on other machines: keys, waiting claims, and the files and lines that they get and send under a lease."""
