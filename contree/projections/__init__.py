"""Read models: for each its table, what an event changes in it, and the queries that read it."""
