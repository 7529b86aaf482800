"""The worker's one door to the server: an interface of all that it asks for, and its form on the server's own disk.

`interface` and `types` name no database, no server and no row; `local` alone calls the job store and the storage. Data
goes from the worker's other rooms through the interface, and nothing here calls them.
"""
