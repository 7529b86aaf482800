"""Files of datasets and jobs on the local disk: where they lie, what they weigh, and what belongs to nobody."""
