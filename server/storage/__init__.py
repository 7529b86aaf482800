"""Files of datasets and jobs on the local disk: paths, sizes, orphaned files and the trash."""
