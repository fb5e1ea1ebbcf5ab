"""What a monitoring system reads, in Prometheus' text formats."""
