"""The local index of dead letters: a SQLite file that any process can build from Kafka and throw away."""
