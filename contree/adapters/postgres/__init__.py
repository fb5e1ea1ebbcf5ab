"""PostgreSQL: the embedded server, the schema, and the event log, queue and journal on it."""
