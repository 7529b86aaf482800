"""Routes of workers on other machines, under `/v1/worker`: scope `work`, and a key for each worker and lease."""
