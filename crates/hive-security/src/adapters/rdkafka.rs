//! Kafka clients of librdkafka.
