"""The way of publications out of a process, for brokers that send in batches."""
