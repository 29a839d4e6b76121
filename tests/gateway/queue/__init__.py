"""The queue against a broker that speaks Kafka's protocol."""
