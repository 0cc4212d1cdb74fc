"""Apache Kafka in the lab: brokers in pods, from the jars that `./dev setup` fetches (`pom.xml`, `jars.sha256`)."""
